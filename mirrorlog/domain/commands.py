"""Tracking commands, and the node's answers to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.extents import ExtentColumns

IMPORTED: Final = "import:"
"""The prefix of a host's name if its commands carry times of another source (mirrorlog import)."""

LEFT_OUT_SESSIONS: Final = "*"
"""The name that stands for all sessions that a volume's head no longer names. Closing it makes the
whole volume dirty (docs/decisions/left-out-sessions.md)."""


def is_imported_host(host: str) -> bool:
    """Return whether commands of that host are an import's."""
    return host.startswith(IMPORTED)


class CommandKind(StrEnum):
    """Kinds of tracking command. An older reader sees UNKNOWN for a kind that it doesn't know."""

    WRITES = "WRITES"  # the extents were written, zeroed or discarded
    MARK_DIRTY = "MARK_DIRTY"  # the extents may differ: recovered regions, or an operator says so
    BARRIER = "BARRIER"  # a named point; it has no extents of its own
    RAW = "RAW"  # commands as on the wire: the node reads out of them what they change
    HEARTBEAT = "HEARTBEAT"  # the session lives, and the log names all its earlier writes
    SESSION_OPEN = "SESSION_OPEN"  # acknowledged before the session's first write
    SESSION_CLOSE = "SESSION_CLOSE"  # no write of the session is in flight any more
    # The volume has `size_bytes` now. The extents are the grown region, as the sender knows it.
    RESIZE = "RESIZE"
    RETIRE = "RETIRE"  # no host writes to the volume any more, and sites stop following it
    # The volume's history is broken: `new_generation` begins behind this command.
    NEW_GENERATION = "NEW_GENERATION"
    # The secondary of a site is the primary from here on (domain/promotions.py). On the wire it has
    # a contract of its own.
    PROMOTE = "PROMOTE"
    UNKNOWN = "UNKNOWN"


class WireProtocol(StrEnum):
    """The protocol of raw bytes. An older reader sees UNKNOWN for one that it doesn't know."""

    SCSI = "SCSI"
    NVME = "NVME"
    NBD = "NBD"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class RawCommand:
    """One command as it appeared on the wire (mirrorlog.domain.wire interprets it).

    command: a CDB, a submission queue entry or a request header.
    data: what was sent along, where the extents depend on it.
    """

    protocol: WireProtocol
    command: bytes
    data: bytes = b""


class ForkOutcome(IntEnum):
    """The outcome of an extent at a secondary to which the host itself sent the write.

    The numbers are on the wire and never change their meaning. Any other number counts as MISSED.
    """

    MISSED = 0  # the write failed, or wasn't tried
    HAS = 1  # durable there: the secondary was flushed after the write, before the batch closed
    OPEN = 2  # not known yet; the session names the extent again


@dataclass(frozen=True, slots=True)
class ForkOutcomes:
    """The outcomes of a command's extents at the secondary of one site.

    outcomes: one ForkOutcome (u8) an extent, in their order; empty if the secondary has them all.
    """

    site: str
    outcomes: bytes = b""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TrackingCommand:
    """One batch of extents (or a barrier, …) from one session of one host for one volume.

    A HEARTBEAT with an empty volume counts for all volumes of the session in the partition: before
    it, the session published everything that it held for any of them. A SESSION_CLOSE with an empty
    volume follows those of the volumes: the session's heartbeats are removed from the log.

    extents: those that completed since the session's last command for the volume, and those in
    flight when the batch closed. So the next command names every write that a reader of the primary
    may have seen (invariant 8).
    sequence: the number of the command among the session's commands for the volume, from 0; below 0
    if the command belongs to no session.
    acknowledged_position: the highest position of the volume's partition that the session knew as
    acknowledged when it closed the batch; None before the first. If a reader of the primary sees
    the topic's end at or below it, the command was closed after its reads (invariant 8).
    note: the name of a barrier, or the reason why a range was marked dirty.
    raw, logical_block_bytes: commands from the wire, and the unit of their addresses. They come
    beside the extents or instead of them.
    size_bytes, new_generation: the request of a RESIZE, and of a NEW_GENERATION or PROMOTE; 0 and
    None in any other command.
    forks: the outcomes at each secondary to which the host itself sends the writes. A secondary
    that isn't listed has missed every extent (docs/decisions/forked-writes.md).
    """

    volume: str
    generation: str
    host: str
    session: str
    sequence: int
    kind: CommandKind
    extents: ExtentColumns
    first_at_us: int
    last_at_us: int
    acknowledged_position: int | None = None
    note: str | None = None
    raw: tuple[RawCommand, ...] = ()
    logical_block_bytes: int = 0
    size_bytes: int = 0
    new_generation: str | None = None
    forks: tuple[ForkOutcomes, ...] = ()


class StatusCode(StrEnum):
    """The node's answer. An older reader sees UNKNOWN for a code that it doesn't know."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"  # recorded already; harmless
    STALE_SESSION = "STALE_SESSION"  # recorded and flagged
    SEQUENCE_GAP = (
        "SEQUENCE_GAP"  # recorded; commands before it are missing, so the volume is dirty
    )
    REJECTED = "REJECTED"  # refused, whole or in part: `reason` says why
    UNKNOWN = "UNKNOWN"


class RejectReason(StrEnum):
    """Why a command was refused, whole or in part: a closed list, explained in docs/statuses.md."""

    # It isn't an Avro event of a known schema, or its columns contradict each other.
    UNDECODABLE = "UNDECODABLE"
    UNKNOWN_KIND = "UNKNOWN_KIND"  # this node doesn't know the kind
    UNKNOWN_VOLUME = "UNKNOWN_VOLUME"  # no such volume, or not in this partition
    # A part of it contradicts itself. The other parts are recorded.
    MALFORMED_COMMAND = "MALFORMED_COMMAND"
    OUT_OF_RANGE = "OUT_OF_RANGE"  # an extent, or a part of one, lies outside the volume
    SHRINKING = "SHRINKING"  # a RESIZE to fewer bytes
    VOLUME_RETIRED = "VOLUME_RETIRED"  # a RESIZE or NEW_GENERATION of a retired volume
    # A PROMOTE ends another generation than the volume has: another promotion or a renewal won.
    OTHER_GENERATION = "OTHER_GENERATION"
    # The volume to change is in a state that this node doesn't know.
    UNKNOWN_STATE = "UNKNOWN_STATE"
    # It lacks the code of a host key that may touch the volume, or the session. Its addresses are
    # recorded as dirty.
    NOT_AUTHENTIC = "NOT_AUTHENTIC"
    # With the change, the volume's description wouldn't fit into a message.
    DESCRIPTION_TOO_LARGE = "DESCRIPTION_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why an event, or a part of it, isn't recorded or changes nothing."""

    reason: RejectReason
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStatus:
    """The reply to the command at `position` of `partition`.

    A field is None if the node couldn't read it from the command.
    """

    partition: int
    position: int
    code: StatusCode
    reason: str | None
    text: str
    at_us: int
    volume: str | None = None
    host: str | None = None
    session: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AcceptedBatch:
    """The reply to n commands of one session for one volume that are all ACCEPTED without remark.

    positions: i64, ascending, of the commands in `partition`.
    sequences: i64, of the commands. codec.status_batches.expand makes one status a command of it.
    """

    partition: int
    at_us: int
    volume: str
    host: str
    session: str
    positions: npt.NDArray[np.int64]
    sequences: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A refused event: its bytes, the reason, and its position in the commands topic.

    key, value: as they came; only the first bytes if they are too large for a message.
    key_length, key_sha256, value_length, value_sha256: of the whole key and the whole value if only
    their first bytes are kept; None if they are kept whole.
    """

    partition: int
    position: int
    reason: str
    text: str
    at_us: int
    key: bytes | None
    value: bytes | None
    key_length: int | None = None
    key_sha256: bytes | None = None
    value_length: int | None = None
    value_sha256: bytes | None = None
