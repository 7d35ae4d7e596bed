"""Which published commands the node has recorded: `host_confirm = "recorded"`.

The node answers each command on the status topic. Until it does, the regions that the command names stay hot. While no
node runs, nothing is answered and nothing is lost: commands go on to Kafka, and a write waits only where it needs room in
the activity log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.codec.status_batches import expand
from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.domain.commands import AcceptedBatch, CommandStatus, StatusCode
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.producers.batches.hot_regions import HotRegion, release

RECORDED: Final = (
    StatusCode.ACCEPTED,
    StatusCode.DUPLICATE,
    StatusCode.STALE_SESSION,
    StatusCode.SEQUENCE_GAP,
)
MOST_WAITING: Final = 1 << 20
"""Commands that may wait for a status, and statuses for their command, before writes wait, or the statuses."""


@dataclass(frozen=True, slots=True)
class StatusPorts:
    """Where statuses come from. The reader is the host's alone."""

    reader: TopicReader
    admin: TopicAdmin


@dataclass(slots=True)
class _Wave:
    """Commands that are confirmed together: when the last of them is, their regions are released."""

    positions: BitMap64 = field(default_factory=BitMap64)
    regions: set[HotRegion] = field(default_factory=set)

    def add(self, position: int, regions: Iterable[HotRegion]) -> None:
        self.positions.add(position)
        for region in regions:
            if region in self.regions:
                release((region,))  # once a wave is enough
            else:
                self.regions.add(region)


@dataclass(slots=True)
class _Partition:
    """One partition. Two waves, however many commands wait: the first one closes when it ends, the second takes its place.

    unplaced: published, and the position isn't known yet. early: statuses of positions that may be theirs.
    """

    unplaced: int = 0
    last: int = -1
    early: dict[int, CommandStatus] = field(default_factory=dict)
    first: _Wave = field(default_factory=_Wave)
    second: _Wave = field(default_factory=_Wave)


class Confirmations:
    """What one session waits for. The caller's lock covers all but read(), which one thread at a time may call."""

    def __init__(self, ports: StatusPorts, topic: str, host: str, most: int = MOST_WAITING) -> None:
        self._ports, self._topic, self._host, self._most = ports, topic, host, most
        self._partitions: dict[int, _Partition] = {}
        self._waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether so many commands wait that no more should be published."""
        return self._waiting >= self._most

    @property
    def is_waiting(self) -> bool:
        """Whether any command waits for its status."""
        return self._waiting > 0

    def watches(self, partition: int) -> bool:
        """Whether statuses of the partition are read."""
        return partition in self._partitions

    def watch(self, partition: int) -> None:
        """They are from now on: called before the first command is published there, and not while another reads."""
        end = self._ports.admin.end_position(self._topic, partition)
        self._ports.reader.assign(self._topic, {partition: end})
        self._partitions[partition] = _Partition()

    def publishing(self, partition: int) -> None:
        """A command is on its way."""
        self._partitions[partition].unplaced += 1

    def published(
        self, partition: int, position: int, regions: Collection[HotRegion]
    ) -> list[CommandStatus]:
        """It is in Kafka, and waits for its status; the status, where that is a refusal and came already."""
        found = self._partitions[partition]
        found.unplaced -= 1
        found.last = max(found.last, position)
        found.second.add(position, regions)
        self._waiting += 1
        status = found.early.get(position)
        # Positions of a session rise: what is below this one was another's.
        found.early = (
            {at: each for at, each in found.early.items() if at > position}
            if found.unplaced
            else {}
        )
        return [] if status is None else self._answered(found, status)

    def read(self, timeout_s: float) -> Sequence[Message]:
        """Statuses that are there, for take(); none while too many are early."""
        early = sum(len(each.early) for each in self._partitions.values())
        return (
            ()
            if not self._partitions or early >= self._most
            else self._ports.reader.poll(timeout_s)
        )

    def take(self, messages: Sequence[Message]) -> list[CommandStatus]:
        """Takes statuses; those that are refusals of this session's commands."""
        refused: list[CommandStatus] = []
        for message in messages:
            for status in self._statuses(message):
                refused += self._take(self._partitions[message.partition], status)
        return refused

    def positions(self) -> dict[int, int]:
        """The last position published, by partition."""
        return {number: each.last for number, each in self._partitions.items()}

    def waiting(self, through: Mapping[int, int]) -> int:
        """How many commands at or below these positions wait for their status."""
        waves = ((self._partitions[number], last) for number, last in through.items() if last >= 0)
        return sum(
            wave.positions.rank(last) for each, last in waves for wave in (each.first, each.second)
        )

    def _statuses(self, message: Message) -> Iterable[CommandStatus]:
        try:
            event = decode(message.value or b"", object)
        except BadInput:
            return ()
        if isinstance(event, AcceptedBatch):
            return expand(event) if event.host == self._host else ()
        # An event that the node can't read has no host's name in its status.
        return (
            (event,)
            if isinstance(event, CommandStatus) and event.host in (self._host, None)
            else ()
        )

    def _take(self, found: _Partition, status: CommandStatus) -> list[CommandStatus]:
        if status.position > found.last:
            if found.unplaced:
                found.early[status.position] = status
            return []
        return self._answered(found, status)

    def _answered(self, found: _Partition, status: CommandStatus) -> list[CommandStatus]:
        """The command's status is there: maybe once more, after a crash of the node, and maybe it is another session's."""
        waves = [wave for wave in (found.first, found.second) if status.position in wave.positions]
        for wave in waves:
            wave.positions.discard(status.position)
            self._waiting -= 1
        while not found.first.positions and (
            found.first.regions or found.second.positions or found.second.regions
        ):
            release(found.first.regions)
            found.first, found.second = found.second, _Wave()
        return [status] if waves and status.code not in RECORDED else []


def by_volume(refused: Iterable[CommandStatus]) -> Mapping[str | None, BadInput]:
    """The first refusal of each volume, as an error; under None what the node couldn't read, or a code that isn't known."""
    found: defaultdict[str | None, list[CommandStatus]] = defaultdict(list)
    for status in refused:
        found[status.volume if status.code is StatusCode.REJECTED else None].append(status)
    return {volume: _error(statuses[0]) for volume, statuses in found.items()}


def _error(status: CommandStatus) -> BadInput:
    return BadInput(
        f"the node answered a command with {status.code} ({status.reason}): {status.text.rstrip('.')}",
        where=f"volume {status.volume}, partition {status.partition}, position {status.position}",
        next="What the command named stays in the activity log. docs/statuses.md explains each reason.",
    )
