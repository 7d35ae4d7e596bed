"""Traces of a site: a span for each cycle of a secondary, linked to what it restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.tracing import Tracer, latest_ids
from mirrorlog.tracking_log.coverage import VolumeLog


@dataclass(slots=True)
class _RunningCycle:
    """One cycle. positions: those at which the records end that it restores, ascending."""

    began_us: int
    positions: Sequence[int]
    durable_us: int = 0


class CycleTraces:
    """The spans of the cycles that run together. Without a tracer every call does nothing."""

    def __init__(self, tracer: Tracer | None, topic: str, site: str, clock: Clock) -> None:
        """Create the object without cycles. topic: of the commands."""
        self._tracer: Final = tracer
        self._topic: Final = topic
        self._site: Final = site
        self._clock: Final = clock
        self._running: Final[dict[Secondary, _RunningCycle]] = {}

    def begin(self, secondary: Secondary, log: VolumeLog) -> None:
        """Begin a cycle. log: the volume's records, before any of them is dropped."""
        if self._tracer is None:
            return
        saved = secondary.saved
        applied = -1 if saved is None or saved.applied_position is None else saved.applied_position
        through = {parts[0].through for parts in log.complete_records()}
        self._running[secondary] = _RunningCycle(
            self._clock.now_us(), sorted(position for position in through if position > applied)
        )

    def note_durable(self, secondary: Secondary) -> None:
        """Note that all blocks of the cycle are durable on the secondary."""
        if self._tracer is not None:
            self._running[secondary].durable_us = self._clock.now_us()

    def end(self, done: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        """Record the cycles whose positions have moved durably, with the states that were saved."""
        if self._tracer is None:
            return
        ended_us = self._clock.now_us()
        for secondary, state in done:
            cycle, volume = self._running.pop(secondary), secondary.volume
            applied = state.applied_position
            self._tracer.record(
                "site cycle",
                began_us=cycle.began_us,
                ended_us=ended_us,
                attributes={
                    "volume": volume.volume,
                    "site": self._site,
                    "rung": "none" if state.rung is None else state.rung.name.lower(),
                    "partition": volume.partition,
                    "through": -1 if applied is None else applied,
                    "durable_us": cycle.durable_us,
                },
                links=latest_ids(
                    self._topic, partition=volume.partition, positions=cycle.positions
                ),
            )
