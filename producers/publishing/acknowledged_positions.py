"""The positions that Kafka acknowledged to a session, and the histories in which they count.

A position counts only in the history of its partition in which it was acknowledged
(docs/decisions/histories.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp


class AcknowledgedPositions:
    """Positions and histories by partition. The caller holds the outbox's lock.

    broken: the partitions whose history broke, each with two positions: (acknowledged, lower).
        Kafka acknowledged a command at the first position, and the second, which is not higher, is
        that of a later one. So the topic was made anew, or the broker went back in time: those that
        were acknowledged may be gone. The caller makes every volume of the partition count as dirty
        as a whole, durably, and then calls Outbox.accept_history().
    histories: the id of the history in which the positions count; empty if the log doesn't say it.
        Partitions of which nobody has read the log are left out.
    """

    def __init__(self) -> None:
        self._acknowledged: Final[dict[int, int]] = {}
        # Never forgotten: positions that go back show a break in whatever history they count.
        self._last_acknowledged: Final[dict[int, int]] = {}
        self._seen: Final[dict[int, int]] = {}
        self._histories: Final[dict[int, str]] = {}
        self._named_histories: Final[dict[int, str]] = {}
        self._entered: Final[set[tuple[int, str]]] = set()
        self._claims: Final[dict[int, int]] = {}
        self._claimed: Final[set[int]] = set()
        self._noted: Final[dict[int, tuple[int, str]]] = {}
        self._broken: Final[dict[int, tuple[int, int]]] = {}
        self.broken: Final[Mapping[int, tuple[int, int]]] = self._broken
        self.histories: Final[Mapping[int, str]] = self._histories

    def last(self, partition: int) -> int | None:
        """Return the position of the session's last command that Kafka has acknowledged there."""
        return self._acknowledged.get(partition)

    def partitions(self) -> tuple[int, ...]:
        """Return the partitions of which Kafka has acknowledged a command of the session."""
        return tuple(self._acknowledged)

    def note(self, partition: int, position: int) -> None:
        """Note that Kafka has acknowledged a command. A position that isn't higher shows a break.

        A claim of the partition ends if a command has said it: those that follow needn't.
        """
        before = self._last_acknowledged.get(partition)
        if before is not None and position <= before:
            self._broken.setdefault(partition, (before, position))
        self._last_acknowledged[partition] = self._acknowledged[partition] = position
        if partition in self._claimed:
            self._claimed.discard(partition)
            self._claims.pop(partition, None)

    def for_command(self, partition: int) -> int | None:
        """Return the position that a command names as acknowledged there: a claim first."""
        if partition in self._claims:
            self._claimed.add(partition)
            return self._claims[partition]
        return self._acknowledged.get(partition, self._seen.get(partition))

    def knows_some(self, partition: int) -> bool:
        """Return whether a command that is made now names a position of the partition."""
        return partition in self._acknowledged or partition in self._seen

    def see_end(self, partition: int, end: int) -> None:
        """Note that the broker says that the topic ends there: what lies below is acknowledged."""
        if end > 0:
            self._seen[partition] = end - 1

    def claim(self, partition: int, position: int, end: int) -> None:
        """Note that the topic ends at `end`, and that `position` was acknowledged to an earlier
        session, at or above it: the history broke.

        The next commands say so. The node learns by it that the history broke, even if nothing that
        the node keeps shows it.
        """
        self._claims[partition] = position
        self._broken.setdefault(partition, (position, end))

    def accept(self, partition: int) -> None:
        """Forget that the history of the partition broke."""
        del self._broken[partition]

    def named_history(self, partition: int) -> str:
        """Return the id of the history that a heartbeat of the partition names; empty for none."""
        return self._named_histories.get(partition, "")

    def name_history(self, partition: int, history_id: str) -> None:
        """Let the heartbeats of the partition name this history."""
        self._named_histories[partition] = history_id

    def read_history(self, partition: int, history_id: str) -> None:
        """Let positions of the partition count in the history that the log names.

        Empty: the log doesn't say it. Heartbeats then name what they named before.
        """
        self._histories[partition] = history_id
        if history_id:
            self.name_history(partition, history_id)

    def enter_history(self, partition: int, history_id: str) -> bool:
        """Forget which commands of the partition Kafka has acknowledged: they may be gone.

        The session names in its commands only what is acknowledged from now on, and its heartbeats
        name the history. Return False, with nothing done, at the second call for one history.
        """
        if (partition, history_id) in self._entered:
            return False
        self._entered.add((partition, history_id))
        self._acknowledged.pop(partition, None)
        self._seen.pop(partition, None)
        self._claims.pop(partition, None)
        self.read_history(partition, history_id)
        return True

    def entries(
        self, partitions: Iterable[int], at_us: int, *, with_time: bool = False
    ) -> Iterator[ActivityEntry]:
        """Yield the entries that note how far Kafka has acknowledged the commands there.

        Without `with_time`, what was noted already isn't noted again for its time.

        A region that leaves the activity log leaves together with the note that its commands are
        acknowledged: if the topic ever ends below it, they are gone.
        """
        for partition in sorted(partitions):
            position = self._acknowledged.get(partition)
            history = self._histories.get(partition)
            if position is None or history is None or partition in self._broken:
                continue
            if with_time or self._noted.get(partition) != (position, history):
                self._noted[partition] = position, history
                yield ActivityEntry(
                    ActivityOp.REACHED,
                    partition=partition,
                    position=position,
                    at_us=at_us,
                    history=history,
                )
