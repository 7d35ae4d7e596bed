"""A session that publishes an import, and the node's answers to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.bitmaps import BitMap64
from mirrorlog.commands import CommandKind, StatusCode
from mirrorlog.errors import BadInput, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.producers.batch import ClosedBatch
from mirrorlog.producers.outbox import Outbox
from mirrorlog.statuses import read_statuses
from mirrorlog.volumes import Volume

_REFUSALS_KEPT: Final = 3


@dataclass(frozen=True, slots=True)
class Published:
    """first_position, last_position: of the session's opening and its close, in the volume's partition."""

    commands: int
    first_position: int
    last_position: int


def publish(
    outbox: Outbox,
    volume: Volume,
    commands: Iterable[tuple[CommandKind, ClosedBatch]],
    note: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Published:
    """Publishes an import as the session of `outbox`. All of it is in Kafka when this returns.

    1. SESSION_OPEN is acknowledged: from now on no site calls the volume consistent.
    2. The commands are published, in order.
    3. They are acknowledged.
    4. SESSION_CLOSE is acknowledged: nothing is held back any more.

    Cut off between 1 and 4, the session stays open in the log: what was published counts, what wasn't isn't taken for done.
    To import again changes nothing but what was missing, for the log is a union (invariant 3); then the session that was
    cut off is closed by hand. Errors: KafkaFailed, and what `commands` raises.
    """
    with outbox.lock:
        outbox.send(volume, CommandKind.SESSION_OPEN, note=note)
    outbox.wait_published()  # 1
    first_position = outbox.last_positions[volume.volume]
    for kind, batch in commands:
        with outbox.lock:
            outbox.send(volume, kind, batch, note=note if kind is CommandKind.MARK_DIRTY else None)  # 2
        outbox.poll(0)
        progress(outbox.extents)
    outbox.wait_published()  # 3
    with outbox.lock:
        outbox.send(volume, CommandKind.SESSION_CLOSE, note=note)
    outbox.wait_published()  # 4
    return Published(outbox.commands, first_position, outbox.last_positions[volume.volume])


@dataclass(slots=True)
class Answers:
    """The node's statuses of one session's commands. Made before the first is published.

    counts: by code, each command once. refusals: the texts of the first that were refused.
    """

    reader: TopicReader
    volume: Volume
    session: str
    counts: Counter[StatusCode] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    _answered: BitMap64 = field(default_factory=BitMap64)

    def watch(self, admin: TopicAdmin, topic: str) -> None:
        """Statuses are read from here on."""
        self.reader.assign(topic, {self.volume.partition: admin.end_position(topic, self.volume.partition)})

    def wait(self, commands: int, deadline_s: float, clock: Clock) -> None:
        """Returns when so many commands have their status; KafkaFailed at the deadline."""
        until_s = clock.monotonic_s() + deadline_s
        while len(self._answered) < commands:
            if clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"the import is published, but the node answered {len(self._answered)} of its {commands} commands "
                    f"within {deadline_s:g} s",
                    where=f"volume {self.volume.volume}, session {self.session}",
                    next="Is a node running? It records them when it does.",
                )
            for message in self.reader.poll(0.2):
                self._take(message.value or b"")

    def _take(self, value: bytes) -> None:
        try:
            statuses = list(read_statuses(value))
        except BadInput:
            return  # of a newer node, and not about us: it answers what it can read in what we can read
        for status in statuses:
            if status.session == self.session and status.position not in self._answered:
                self._answered.add(status.position)
                self.counts[status.code] += 1
                if status.code is StatusCode.REJECTED and len(self.refusals) < _REFUSALS_KEPT:
                    self.refusals.append(f"{status.reason} at position {status.position}: {status.text}")
