"""Which sessions are open on a volume, read from the log and from the commands that aren't in it yet: no node is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import (
    SessionBeat,
    VolumeHead,
    Watermark,
    session_head,
    updates_session,
)
from mirrorlog.tracking_log.keys import head_key, key_kind

PATIENCE_S: Final = 30.0
DATED: Final = 3
"""Of so many sessions the time of their first command is looked up, for people."""


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """How the log and the commands are read: each question has a reader of its own."""

    new_reader: Callable[[], TopicReader]
    admin: TopicAdmin


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that may write to the volume. opened_at_us: None where it isn't known. last_at_us: of its last command or
    heartbeat that is known."""

    volume: str
    session: str
    host: str
    opened_position: int
    opened_at_us: int | None
    last_at_us: int


def open_before(
    positions: Mapping[str, int],
    volumes: Mapping[str, Volume],
    ports: SessionPorts,
    topics: Topics,
    clock: Clock,
) -> list[OpenSession]:
    """The sessions that are open on these volumes and began before `positions` (by volume; each is acknowledged).

    1. The ends of the partitions are asked for.
    2. The log is read to its end: the newest head of each volume tells all sessions through the watermark, or further.
    3. The commands behind the watermark are read to their end, and folded on top (folding twice changes nothing).

    What is learnt behind `positions` counts for sessions that began before them alone: a close is taken, and who opens
    later asks the same question and meets the session that asks now.
    Errors: KafkaFailed where nothing comes for so long, OutOfRetention where commands are gone that the log doesn't hold.
    """
    found: list[OpenSession] = []
    clients = (ports, topics, clock)
    for partition in sorted({volumes[name].partition for name in positions}):
        mine = {
            name: position
            for name, position in positions.items()
            if volumes[name].partition == partition
        }
        known = _read(partition, [volumes[name] for name in mine], *clients)
        for name, position in mine.items():
            for session in known.heads[name].sessions:
                if session.is_open and BEFORE_FIRST < session.opened_position < position:
                    opened_at_us = (
                        _time_of(partition, session.opened_position, *clients)
                        if len(found) < DATED
                        else None
                    )
                    last_at_us = max(session.last_at_us, known.beats[session.session])
                    found.append(
                        OpenSession(
                            *(name, session.session, session.host, session.opened_position),
                            opened_at_us,
                            last_at_us,
                        )
                    )
    return found


@dataclass(slots=True)
class _Known:
    """Of one partition. beats: when a session's last heartbeat was made."""

    heads: dict[str, VolumeHead]
    watermark: int = BEFORE_FIRST
    beats: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def take_row(self, name: str | None, message: Message) -> None:
        """A row of the log; `name`: the volume whose head it is."""
        if message.value is None or message.key is None:
            return
        if name is not None:
            head = decode(message.value, VolumeHead)
            if _reach(head) >= _reach(
                self.heads[name]
            ):  # a worker that lost the partition may still send an old one
                self.heads[name] = head
        elif key_kind(message.key) is Watermark:
            self.watermark = max(self.watermark, decode(message.value, Watermark).through)
        elif key_kind(message.key) is SessionBeat:
            beat = decode(message.value, SessionBeat)
            self.beats[beat.session] = beat.at_us

    def take_command(self, message: Message) -> None:
        """What cannot be read names no session."""
        with suppress(BadInput):
            command = decode(message.value or b"", TrackingCommand)
            if command.kind is CommandKind.HEARTBEAT:
                self.beats[command.session] = command.last_at_us
            if command.volume in self.heads and updates_session(command):
                head = self.heads[command.volume]
                said = session_head(command, message.position)
                self.heads[command.volume] = head.merged(replace(head, sessions=(said,)))


def _reach(head: VolumeHead) -> int:
    """The last position that the head knows of: it only grows from one head of a volume to the next."""
    return max(
        (max(each.last_position, each.closed_position) for each in head.sessions),
        default=BEFORE_FIRST,
    )


def _read(
    partition: int, volumes: list[Volume], ports: SessionPorts, topics: Topics, clock: Clock
) -> _Known:
    known = _Known(
        {
            each.volume: VolumeHead(each.volume, each.generation, through=BEFORE_FIRST)
            for each in volumes
        }
    )
    names = {head_key(each.volume): each.volume for each in volumes}
    ends = {
        topic: ports.admin.end_position(topic, partition)
        for topic in (topics.changelog, topics.commands)
    }  # 1
    for message in _messages(
        ports, topics.changelog, partition, None, ends[topics.changelog], clock
    ):  # 2
        known.take_row(names.get(message.key or b""), message)
    after = (
        min(each.origin_position for each in volumes)
        if known.watermark == BEFORE_FIRST
        else known.watermark
    )
    keys = {each.volume.encode() for each in volumes} | {b""}
    for message in _messages(
        ports, topics.commands, partition, after + 1, ends[topics.commands], clock
    ):  # 3
        if (message.key or b"") in keys:
            known.take_command(message)
    return known


def _messages(
    ports: SessionPorts, topic: str, partition: int, start: int | None, end: int, clock: Clock
) -> Iterator[Message]:
    """The messages of the partition at [start, end)."""
    patience = ReadPatience(clock, PATIENCE_S, "reading who else has the volume open")
    return read_range(ports.new_reader, topic, partition, patience, start=start, end=end)


def _time_of(
    partition: int, position: int, ports: SessionPorts, topics: Topics, clock: Clock
) -> int | None:
    """When the command at that position came; None where it isn't kept any more."""
    with suppress(OutOfRetention):
        command = next(
            _messages(ports, topics.commands, partition, position, position + 1, clock), None
        )
        return command.at_us if command else None
    return None
