"""Which sessions a volume has, read from the log and the commands. No node is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.clusters import ClusterCheck
from mirrorlog.reading.commands_now import commands_now
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.breaks import break_reason
from mirrorlog.tracking_log.heads import (
    SessionBeat,
    VolumeHead,
    Watermark,
    closed_sessions,
    former_primary_reason,
    is_promoted_at,
    session_head,
    updates_session,
)
from mirrorlog.tracking_log.keys import head_key, key_kind

PATIENCE_S: Final = 30.0
MAX_DATED_SESSIONS: Final = 3
"""The number of sessions whose opening time is read."""


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """The ports for the log and the commands. Each range is read by a reader of its own."""

    open_reader: Callable[[], TopicReader]
    admin: TopicAdmin


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that may write to the volume.

    opened_at_us: the time of its first command; None if it isn't known.
    last_at_us: the time of its last known command or heartbeat.
    """

    volume: str
    session: str
    host: str
    opened_position: int
    opened_at_us: int | None
    last_at_us: int


class KnownSessions:
    """The sessions of some volumes, and where their commands end, as read_sessions() read them."""

    def __init__(
        self,
        volumes: Mapping[str, Volume],
        partitions: Mapping[int, PartitionSessions],
        time_of: Callable[[int, int], int | None],
    ) -> None:
        self._volumes, self._partitions, self._time_of = volumes, partitions, time_of

    def partition_of(self, name: str) -> PartitionSessions:
        """Return what was read of the volume's partition."""
        return self._partitions[self._volumes[name].partition]

    def open_before(self, positions: Mapping[str, int]) -> list[OpenSession]:
        """Return the sessions that are open on volumes and began before `positions` (by volume).

        Each position must have been acknowledged before read_sessions() was called. What was read
        above it counts only for sessions that began before it: a close of such a session counts. A
        session that opens later asks the same question, and finds the session that asks now.
        """
        open_sessions: list[OpenSession] = []
        for name in sorted(positions, key=lambda name: self._volumes[name].partition):
            partition, known = self._volumes[name].partition, self.partition_of(name)
            for session in known.heads[name].sessions:
                opened = session.opened_position  # OPENED_EARLIER lies before every position
                is_before = opened != BEFORE_FIRST and opened < positions[name]
                if not session.is_open or not is_before:
                    continue
                is_dated = len(open_sessions) < MAX_DATED_SESSIONS
                open_sessions.append(
                    OpenSession(
                        volume=name,
                        session=session.session,
                        host=session.host,
                        opened_position=session.opened_position,
                        opened_at_us=self._time_of(partition, session.opened_position)
                        if is_dated
                        else None,
                        last_at_us=max(session.last_at_us, known.beats[session.session]),
                    )
                )
        return open_sessions


def read_sessions(
    volumes: Mapping[str, Volume], ports: SessionPorts, topics: Topics, clock: Clock
) -> KnownSessions:
    """Read which sessions the volumes have, and had lately.

    volumes: the descriptions, by name.

    1. Ask where the partitions end.
    2. Read the log to its end. The newest head of each volume names all its sessions, at least
       through the watermark.
    3. Read the commands above the watermark to their end, and fold them on top. Folding a command
       twice changes nothing. Of an authenticated volume only the log counts: the caller waits until
       it holds what it asks for. If the commands belong to another history than the log
       (break_reason), all of them are folded, on top of sessions that began earlier.

    Raise KafkaFailed if a topic makes no progress for PATIENCE_S, OutOfRetention if commands are
    gone that the log doesn't hold.
    """
    reading = _Reading(ports, topics, clock)
    partitions = {
        number: reading.partition_sessions(
            number, [volume for volume in volumes.values() if volume.partition == number]
        )
        for number in sorted({volume.partition for volume in volumes.values()})
    }
    return KnownSessions(volumes, partitions, reading.time_of)


@dataclass(slots=True)
class PartitionSessions:
    """The state of the sessions of one partition, as far as it was read.

    heads: by volume. beats: by session, the time of its last heartbeat.
    end: where the commands end. watermark: the last one of the log; None if it has none.
    volumes: the descriptions, by name. is_broken: the commands belong to another history than the
        log.
    named_through: by volume, the position of its last command above the watermark that names a
        range; BEFORE_FIRST if there is none.
    """

    heads: dict[str, VolumeHead]
    end: int
    watermark: Watermark | None = None
    is_broken: bool = False
    beats: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    named_through: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: BEFORE_FIRST))
    volumes: Mapping[str, Volume] = field(default_factory=dict)

    @property
    def history_id(self) -> str:
        """The id of the history of the commands; empty if the log doesn't say it."""
        if self.is_broken or self.watermark is None or self.watermark.history is None:
            return ""
        return self.watermark.history.id

    def names_after(self, volume: str, position: int) -> bool:
        """Return whether the log or a command behind it names a range of the volume after it."""
        return max(self.heads[volume].through, self.named_through[volume]) > position

    def take_row(self, volume: str | None, message: Message) -> None:
        """Take a row of the log. volume: the volume whose head it is; None for other rows."""
        if message.value is None or message.key is None:
            return
        if volume is not None:
            head = decode(message.value, VolumeHead)
            # A worker that lost the partition may still send an old head.
            if head.order >= self.heads[volume].order:
                self.heads[volume] = head
        elif key_kind(message.key) is Watermark:
            watermark = decode(message.value, Watermark)
            if self.watermark is None or watermark.order >= self.watermark.order:
                self.watermark = watermark
        elif key_kind(message.key) is SessionBeat:
            beat = decode(message.value, SessionBeat)
            self.beats[beat.session] = beat.at_us

    def begin_history(self) -> None:
        """Note that the commands belong to another history than the log that was read.

        The node hasn't renewed the history yet. Every session that the log calls open still is, and
        began before every command of the topic.
        """
        self.is_broken = True
        for name, head in self.heads.items():
            carried = (session.carried_over() for session in head.sessions if session.is_open)
            self.heads[name] = replace(head, sessions=tuple(carried))

    def take_command(self, message: Message) -> None:
        """Take a command. A message that isn't a command is skipped."""
        with suppress(BadInput):
            command = decode(message.value or b"", TrackingCommand)
            if command.kind is CommandKind.HEARTBEAT:
                self.beats[command.session] = command.last_at_us
            if command.extents or command.raw or command.kind is CommandKind.RESIZE:
                self.named_through[command.volume] = message.position
            volume = self.volumes.get(command.volume)
            if volume is not None and volume.is_authenticated_at(message.position):
                return  # only the node can tell whether it is authentic
            if command.volume in self.heads:
                self._take_session(command, message.position)

    def _take_session(self, command: TrackingCommand, position: int) -> None:
        """Take what a command says of its session, as the node's fold does (volume_fold.py)."""
        head, volume = self.heads[command.volume], self.volumes.get(command.volume)
        if volume is not None and is_promoted_at(volume, position):
            known = {session.session: session for session in head.sessions}
            closed = closed_sessions(known, position).values()
            self.heads[command.volume] = replace(head, sessions=tuple(closed))
        elif volume is not None and former_primary_reason(volume, command, position):
            return
        elif updates_session(command):
            session = session_head(command, position)
            self.heads[command.volume] = head.merged(replace(head, sessions=(session,)))


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads the log and the commands for one question."""

    ports: SessionPorts
    topics: Topics
    clock: Clock

    def partition_sessions(self, partition: int, volumes: Sequence[Volume]) -> PartitionSessions:
        """Read all that is there of a partition's sessions (steps 1 to 3)."""
        volumes_by_key = {head_key(volume.volume): volume.volume for volume in volumes}
        changelog, commands = self.topics.changelog, self.topics.commands
        log_end = self.ports.admin.end_position(changelog, partition)  # 1
        commands_end = self.ports.admin.end_position(commands, partition)
        heads = {
            volume.volume: VolumeHead(volume.volume, volume.generation_of_log, through=BEFORE_FIRST)
            for volume in volumes
        }
        by_name = {volume.volume: volume for volume in volumes}
        known = PartitionSessions(heads, commands_end, volumes=by_name)
        for message in self._messages(changelog, partition, start=None, end=log_end):  # 2
            known.take_row(volumes_by_key.get(message.key or b""), message)
        start = self._first_unread(partition, known, volumes)
        keys = {volume.volume.encode() for volume in volumes} | {b""}
        try:
            for message in self._messages(commands, partition, start=start, end=commands_end):  # 3
                if (message.key or b"") in keys:
                    known.take_command(message)
        except OutOfRetention as error:
            raise self._lost_error(partition, known, start) from error
        return known

    def _lost_error(
        self, partition: int, known: PartitionSessions, start: int | None
    ) -> OutOfRetention:
        """Return the error for commands that are gone and that the log doesn't hold."""
        first_kept = self.ports.admin.first_position(self.topics.commands, partition)
        log_end = (
            f"the log ends at position {known.watermark.through}"
            if known.watermark is not None
            else "the log is empty"
        )
        return OutOfRetention(
            f"{log_end}, and the commands are kept from position {first_kept} on: what lies "
            "between was deleted, so nobody knows which hosts have the volume open, or what they "
            "wrote",
            where=f"volume {', '.join(sorted(known.volumes))}, topic {self.topics.commands}, "
            f"partition {partition}, from position {'the oldest' if start is None else start}",
            next="Start the node, or start it again: it finds this, renews the history of the "
            "partition, and its sites copy its volumes in full. Then open the volume again. Keep "
            "commands for longer than the longest time without a node, and never delete the topic "
            f"{self.topics.changelog}.",
        )

    def _first_unread(
        self, partition: int, known: PartitionSessions, volumes: Sequence[Volume]
    ) -> int | None:
        """Return the first position whose command the log doesn't hold; None for the oldest kept.

        None: the commands belong to another history than the log, and all of them count.
        """
        watermark = known.watermark
        if watermark is None:
            return min(volume.origin_position for volume in volumes) + 1
        ClusterCheck(self.ports.admin).check_watermark(watermark)
        now = commands_now(
            self.ports.open_reader,
            self.ports.admin,
            self.topics.commands,
            partition,
            watermark.through,
            self._patience(),
        )
        if break_reason(watermark, now) is None:
            return watermark.through + 1
        known.begin_history()
        return None

    def time_of(self, partition: int, position: int) -> int | None:
        """Return the time at which the broker took the command; None if it is no longer kept."""
        if position < 0:
            return None  # OPENED_EARLIER: the command is of an earlier history
        with suppress(OutOfRetention):
            messages = self._messages(
                self.topics.commands, partition, start=position, end=position + 1
            )
            command = next(messages, None)
            return command.at_us if command else None
        return None

    def _messages(
        self, topic: str, partition: int, *, start: int | None, end: int
    ) -> Iterator[Message]:
        open_reader = self.ports.open_reader
        return read_range(open_reader, topic, partition, self._patience(), start=start, end=end)

    def _patience(self) -> ReadPatience:
        return ReadPatience(self.clock, PATIENCE_S, "reading who else has the volume open")
