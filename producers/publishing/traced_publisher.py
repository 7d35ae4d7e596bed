"""Traces of a host: a span for each command with extents, from its first write on.

The host has this publisher in front of its own only if traces are switched on.
"""

from __future__ import annotations

from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Acknowledged, AppendTime, Publisher
from mirrorlog.ports.tracing import Tracer, command_ids


class TracedPublisher:
    """The port Publisher. All but publish() is that of the publisher behind it."""

    def __init__(self, publisher: Publisher, tracer: Tracer, clock: Clock) -> None:
        self._publisher: Final = publisher
        self._tracer: Final = tracer
        self._clock: Final = clock
        self.poll: Final = publisher.poll
        self.flush: Final = publisher.flush
        self.close: Final = publisher.close

    @property
    def last_append(self) -> AppendTime | None:
        return self._publisher.last_append

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Publish the message, and record a span when it is acknowledged."""
        published_us = self._clock.now_us()

        def acknowledged(position: int | None) -> None:
            if value is not None and position is not None:
                self._record(topic, partition, position, value, published_us=published_us)
            if on_acknowledged is not None:
                on_acknowledged(position)

        self._publisher.publish(topic, partition, key, value, acknowledged)

    def _record(
        self, topic: str, partition: int, position: int, value: bytes, *, published_us: int
    ) -> None:
        command = decode(value, object)
        if not isinstance(command, TrackingCommand) or not len(command.extents):
            return
        ended_us = self._clock.now_us()
        self._tracer.record(
            "host batch",
            began_us=min(command.first_at_us, ended_us),
            ended_us=ended_us,
            attributes={
                "volume": command.volume,
                "host": command.host,
                "session": command.session,
                "kind": command.kind.name,
                "extents": len(command.extents),
                "partition": partition,
                "position": position,
                "published_us": published_us,
            },
            ids=command_ids(topic, partition=partition, position=position),
        )
