"""Faust's Kafka transport, with the commit gate deciding what its consumer commits."""

from __future__ import annotations

from typing import ClassVar

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from mirrorlog.streams.commit_gate import CommitGate


class GatedConsumer(driver.Consumer):
    """Faust's consumer, with the gate deciding what is committed."""

    gate: ClassVar[CommitGate]

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic != self.gate.topic:
            return super()._new_offset(tp)
        # Faust's own list of acknowledged offsets has no use any more: it mustn't grow.
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return self.gate.committable(tp.partition)


def gated_transport(gate: CommitGate) -> type[driver.Transport]:
    """A transport whose consumer asks `gate`."""
    consumer = type("NodeConsumer", (GatedConsumer,), {"gate": gate})
    return type("NodeTransport", (driver.Transport,), {"Consumer": consumer})
