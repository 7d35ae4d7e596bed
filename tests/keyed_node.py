"""A whole node in memory that judges commands by host keys, and what its log says afterwards.

Volume "db" is authenticated, and holder east may touch it. Holder west may touch "web".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NoReturn

from memory_nodes import memory_node
from notation import command, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    Quarantined,
    TrackingCommand,
)
from mirrorlog.domain.host_keys import CommandSigner, Holder, HostKey, HostKeys, session_of
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_engine import MemoryStore
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead
from mirrorlog.tracking_log.keys import beat_key, head_key, key_kind
from mirrorlog.tracking_log.records import LogRecord

TOPICS = Settings().topics
EAST, WEST = (HostKey(f"{name}/1", name.encode() * 8) for name in ("east", "west"))
KEYS = HostKeys(
    {key.id: key for key in (EAST, WEST)},
    {"east": Holder("east", ("db",)), "west": Holder("west", ("web",))},
)
SESSION, THEIRS = session_of("east", bytes(8)), session_of("west", bytes(8))
BLOCK = 4096


@dataclass
class NodeKeys:
    """The keys of a node, which a test changes."""

    keys: HostKeys = KEYS

    def current(self) -> HostKeys:
        return self.keys


@dataclass
class KeyedCluster:
    """A broker and a node with volumes "db" and "web" in one partition. Both are authenticated."""

    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(clock=SystemClock()))
    store: MemoryStore = field(default_factory=MemoryStore)
    keys: NodeKeys = field(default_factory=NodeKeys)
    sequences: dict[str, count[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        for name in ("db", "web"):
            described: Volume = volume(name, authenticated_after=-1)
            self.broker.append(TOPICS.volumes, 0, name.encode(), encode(described))

    @property
    def end(self) -> int:
        return self.broker.end_position(TOPICS.commands, 0)

    def send(self, event: TrackingCommand, key: HostKey | None) -> int:
        """Append a command with the code of the key. Return its position."""
        value, name = encode(event), event.volume.encode()
        signer = None if key is None else CommandSigner(TOPICS.commands, key)
        headers = [] if signer is None else signer.headers(TOPICS.commands, 0, name, value)
        return self.broker.append(TOPICS.commands, 0, name, value, headers)

    def east(
        self, kind: CommandKind, text: str = "", session: str = SESSION, **more: object
    ) -> int:
        """Append the next command of a session of east's host."""
        sequence = next(self.sequences.setdefault(session, count()))
        fields = {"sequence": sequence, "acknowledged_position": self.end - 1, **more}
        return self.send(
            command(text, "db", host="east", session=session, kind=kind, **fields), EAST
        )

    def resend(self, position: int) -> int:
        """Append the bytes of a command again, with their headers, as any host can."""
        message = self.broker.partition(TOPICS.commands, 0).messages[position]
        return self.broker.append(TOPICS.commands, 0, message.key, message.value, message.headers)

    def fold(self) -> None:
        """Let a worker of the node fold all that is there, and stop."""

        def abort(error: BaseException) -> NoReturn:
            raise error

        settings = Settings(partitions=1, node_flush_s=0.001)
        memory_node(settings, self.broker, abort=abort, store=self.store, host_keys=self.keys).run()

    def row(self, key: bytes) -> bytes | None:
        """Return the newest value of a row of the log."""
        rows = self.broker.messages(TOPICS.changelog)
        return {message.key: message.value for message in rows}.get(key)

    def believed(self) -> tuple[object, ...]:
        """Return all that the log says of "db" but its blocks: sessions, heartbeat, description."""
        head = decode(self.row(head_key("db")) or b"", VolumeHead)
        beat = self.row(beat_key(SESSION))
        described = [
            decode(row.value or b"", Volume)
            for row in self.broker.messages(TOPICS.volumes)
            if row.key == b"db"
        ]
        return (
            head.sessions,
            None if beat is None else decode(beat, SessionBeat).acknowledged_position,
            replace(described[-1], described_position=0),
        )

    def blocks(self, *, after: int) -> tuple[set[int], set[int]]:
        """Return which blocks of "db" changed behind a position, and which of them are zero."""
        reader = LogReader(self.broker.reader(), self.broker, TOPICS.changelog)
        while not reader.caught_up():
            reader.poll(0)
        log, zeroed = reader.logs["db"], set()
        assert log.hole(after=after, through=self.end - 1) is None
        for row in self.broker.messages(TOPICS.changelog):
            if key_kind(row.key or b"") is LogRecord and row.value is not None:
                record = decode(row.value, LogRecord)
                is_asked = record.volume == "db" and record.through > after
                zeroed |= set(record.zeroed) if is_asked else set()
        return set(log.changed(after=after, through=self.end - 1)), zeroed

    def statuses(self) -> Mapping[int, CommandStatus]:
        return {
            status.position: status
            for row in self.broker.messages(TOPICS.status)
            for status in read_statuses(row.value or b"")
        }

    def quarantined(self) -> list[int]:
        return [
            decode(row.value or b"", Quarantined).position
            for row in self.broker.messages(TOPICS.quarantine)
        ]
