"""Which published commands the node has recorded, for `host_confirm = "recorded"`.

The node answers each command on the status topic. Until it has answered, the regions that the
command names stay hot. While no node runs, no command is answered, and nothing is lost: commands
still go to Kafka, and a write waits only if it needs room in the activity log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.codec.status_batches import expand
from mirrorlog.domain.block_sets import BitMap64
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
"""The codes of commands that the node has recorded. Any other code is a refusal."""
MAX_WAITING: Final = 1 << 20
"""The number of commands that may wait for a status before writes wait, too; and the number of
statuses that may wait for their command before no more are read."""


@dataclass(frozen=True, slots=True)
class StatusPorts:
    """The ports through which statuses come. No one but the host uses `reader`."""

    reader: TopicReader
    admin: TopicAdmin


@dataclass(slots=True)
class _Group:
    """Commands that are confirmed together: after the last of them, their regions are released."""

    positions: BitMap64 = field(default_factory=BitMap64)
    regions: set[HotRegion] = field(default_factory=set)

    def add(self, position: int, regions: Iterable[HotRegion]) -> None:
        self.positions.add(position)
        for region in regions:
            if region in self.regions:
                release((region,))  # it is counted once for the whole group
            else:
                self.regions.add(region)


@dataclass(slots=True)
class _PartitionCommands:
    """The commands of one partition that wait for their status.

    They wait in two groups, however many they are. New ones join `open_group`. When the last of
    `closed_group` is confirmed, `open_group` takes its place, and a new one is opened.

    unacknowledged: the number of published commands whose positions aren't known yet.
    last: the highest known position of a command.
    early: by position, statuses that may belong to unacknowledged commands.
    """

    unacknowledged: int = 0
    last: int = -1
    early: dict[int, CommandStatus] = field(default_factory=dict)
    closed_group: _Group = field(default_factory=_Group)
    open_group: _Group = field(default_factory=_Group)


class Confirmations:
    """The commands of one session that wait for the node's status.

    The caller's lock covers every call but read(), which only one thread at a time may call.
    """

    def __init__(
        self, ports: StatusPorts, topic: str, host: str, max_waiting: int = MAX_WAITING
    ) -> None:
        self._ports, self._topic, self._host = ports, topic, host
        self._max_waiting = max_waiting
        self._partitions: dict[int, _PartitionCommands] = {}
        self._waiting = 0

    @property
    def is_full(self) -> bool:
        """Return whether too many commands wait for more to be published."""
        return self._waiting >= self._max_waiting

    @property
    def is_waiting(self) -> bool:
        """Return whether any command waits for its status."""
        return self._waiting > 0

    def is_watched(self, partition: int) -> bool:
        """Return whether statuses of the partition are read."""
        return partition in self._partitions

    def watch(self, partition: int) -> None:
        """Read statuses of the partition from its end as of now.

        The caller does so before it publishes the first command there, and while no other thread
        is in read().
        """
        end = self._ports.admin.end_position(self._topic, partition)
        self._ports.reader.assign(self._topic, {partition: end})
        self._partitions[partition] = _PartitionCommands()

    def on_publishing(self, partition: int) -> None:
        """Count a command that is handed to the client."""
        self._partitions[partition].unacknowledged += 1

    def on_published(
        self, *, partition: int, position: int, regions: Collection[HotRegion]
    ) -> list[CommandStatus]:
        """Let a command that Kafka has acknowledged wait for its status, and `regions` with it.

        Return the status if it has come already and is a refusal.
        """
        commands = self._partitions[partition]
        commands.unacknowledged -= 1
        commands.last = max(commands.last, position)
        commands.open_group.add(position, regions)
        self._waiting += 1
        status = commands.early.get(position)
        # The positions of a session rise: a status below this position belongs to another session.
        commands.early = (
            {at: early for at, early in commands.early.items() if at > position}
            if commands.unacknowledged
            else {}
        )
        return [] if status is None else self._confirm(commands, status)

    def forget(self, partition: int) -> None:
        """Let no published command of the partition wait any longer, and release its regions.

        The partition's history broke, and the commands may be gone: the caller has made the volumes
        that they name count as dirty as a whole.
        """
        commands = self._partitions.get(partition)
        if commands is None:
            return
        for group in (commands.closed_group, commands.open_group):
            self._waiting -= len(group.positions)
            release(group.regions)
        self._partitions[partition] = _PartitionCommands(unacknowledged=commands.unacknowledged)

    def read(self, timeout_s: float) -> Sequence[Message]:
        """Return statuses that have come, for handle(); none while too many are early."""
        early = sum(len(commands.early) for commands in self._partitions.values())
        return (
            ()
            if not self._partitions or early >= self._max_waiting
            else self._ports.reader.poll(timeout_s)
        )

    def handle(self, messages: Sequence[Message]) -> list[CommandStatus]:
        """Confirm the commands of these statuses; return those that refuse a command."""
        refused: list[CommandStatus] = []
        for message in messages:
            for status in self._statuses(message):
                refused += self._handle(self._partitions[message.partition], status)
        return refused

    def positions(self) -> dict[int, int]:
        """Return the highest position of a published command, by partition."""
        return {number: commands.last for number, commands in self._partitions.items()}

    def count_waiting(self, through: Mapping[int, int]) -> int:
        """Return how many commands at or below these positions (by partition) wait."""
        limits = [(self._partitions[number], last) for number, last in through.items() if last >= 0]
        return sum(
            group.positions.rank(last)
            for commands, last in limits
            for group in (commands.closed_group, commands.open_group)
        )

    def _statuses(self, message: Message) -> Iterable[CommandStatus]:
        """Return the statuses of a message that may be of this host's commands."""
        try:
            event = decode(message.value or b"", object)
        except BadInput:
            return ()
        if isinstance(event, AcceptedBatch):
            return expand(event) if event.host == self._host else ()
        # The status of an event that the node can't read doesn't name a host.
        return (
            (event,)
            if isinstance(event, CommandStatus) and event.host in (self._host, None)
            else ()
        )

    def _handle(self, commands: _PartitionCommands, status: CommandStatus) -> list[CommandStatus]:
        if status.position > commands.last:
            if commands.unacknowledged:
                commands.early[status.position] = status
            return []
        return self._confirm(commands, status)

    def _confirm(self, commands: _PartitionCommands, status: CommandStatus) -> list[CommandStatus]:
        """Confirm the command of `status`; return the status if it refuses the command.

        A status may come twice, after a crash of the node, and may belong to another session.
        """
        groups = [
            group
            for group in (commands.closed_group, commands.open_group)
            if status.position in group.positions
        ]
        for group in groups:
            group.positions.discard(status.position)
            self._waiting -= 1
        while not commands.closed_group.positions and (
            commands.closed_group.regions
            or commands.open_group.positions
            or commands.open_group.regions
        ):
            release(commands.closed_group.regions)
            commands.closed_group, commands.open_group = commands.open_group, _Group()
        return [status] if groups and status.code not in RECORDED else []


def refusals_by_volume(refused: Iterable[CommandStatus]) -> Mapping[str | None, BadInput]:
    """Return the first refusal of each volume as an error.

    Under None are events that the node couldn't read, and codes that this version doesn't know.
    """
    statuses: defaultdict[str | None, list[CommandStatus]] = defaultdict(list)
    for status in refused:
        statuses[status.volume if status.code is StatusCode.REJECTED else None].append(status)
    return {volume: _error(of_volume[0]) for volume, of_volume in statuses.items()}


def _error(status: CommandStatus) -> BadInput:
    text = status.text.rstrip(".")
    return BadInput(
        f"the node answered a command with {status.code} ({status.reason}): {text}",
        where=f"volume {status.volume}, partition {status.partition}, position {status.position}",
        next="What the command named stays in the activity log. "
        "docs/statuses.md explains each reason.",
    )
