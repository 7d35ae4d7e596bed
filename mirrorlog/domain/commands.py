"""Tracking commands, and what the processing node answers and keeps aside."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.extents import ExtentColumns

IMPORTED: Final = "import:"
"""How the name of a host begins whose commands carry times of another place (mirrorlog import)."""


class CommandKind(StrEnum):
    """Kinds of tracking command. UNKNOWN is what an older reader sees of a kind that it doesn't know."""

    WRITES = "WRITES"  # the extents were written, zeroed or discarded
    MARK_DIRTY = "MARK_DIRTY"  # the extents may differ: recovered regions, an operator's word
    BARRIER = "BARRIER"  # a named point; no extents of its own
    RAW = "RAW"  # commands as they appeared on the wire: what they change is read out of them
    HEARTBEAT = "HEARTBEAT"  # the session lives; everything written before it is in the log
    SESSION_OPEN = "SESSION_OPEN"  # acknowledged before the session's first write
    SESSION_CLOSE = "SESSION_CLOSE"  # nothing of the session is in flight any more
    RESIZE = "RESIZE"  # the volume has `size_bytes` now; the extents are the grown region, as the sender knew it
    RETIRE = "RETIRE"  # nobody writes to the volume any more, and its sites stop following it
    NEW_GENERATION = "NEW_GENERATION"  # the volume's history is broken: `new_generation` begins behind this command
    UNKNOWN = "UNKNOWN"


class WireProtocol(StrEnum):
    """Whose raw bytes they are. UNKNOWN is what an older reader sees of a protocol that it doesn't know."""

    SCSI = "SCSI"
    NVME = "NVME"
    NBD = "NBD"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class RawCommand:
    """One command as it appeared on the wire: a CDB, a submission queue entry or a request header, and the data sent along
    where it matters (mirrorlog.wire)."""

    protocol: WireProtocol
    command: bytes
    data: bytes = b""


class ForkOutcome(IntEnum):
    """What became of an extent at a secondary to which the host sent the write itself. The numbers are on the wire: they
    never change their meaning, and any other counts as MISSED."""

    MISSED = 0  # it failed, or wasn't tried
    HAS = 1  # it is durable there: the secondary was flushed behind the write, before the batch was closed
    OPEN = 2  # it isn't known yet; the session names the extent again


@dataclass(frozen=True, slots=True)
class ForkOutcomes:
    """What became of a command's extents at the secondary of one site.

    outcomes: a ForkOutcome (u8) for each extent, in their order; empty where the secondary has them all.
    """

    site: str
    outcomes: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class TrackingCommand:
    """One batch of extents (or a barrier, …) from one session of one host for one volume.

    A HEARTBEAT whose volume is empty speaks for all volumes that the session has in the partition: before it, the session
    published everything that it held for any of them. A SESSION_CLOSE whose volume is empty follows those of the volumes:
    the session's heartbeats are forgotten.

    The extents are what completed since the session's last command for the volume, and also what was in flight when the
    batch closed (invariant 8: a write that a reader of the primary may have seen is in the next command).

    acknowledged_position: the highest position of the volume's partition that the session knew as acknowledged when it
    closed the batch. A reader of the primary that then saw the topic's end at or below it knows that the command was
    closed after its reads (invariant 8); None before the first.
    sequence: counts the session's commands for the volume, from 0; below 0 for a command that belongs to no session.
    note: a barrier's name, or why a range was marked dirty.
    raw, logical_block_bytes: commands from the wire, and the unit of their addresses; beside or instead of extents.
    size_bytes, new_generation: what a RESIZE and a NEW_GENERATION ask for; 0 and None in any other.
    forks: of each secondary to which the host sends the writes itself; one that isn't named has missed every extent
    (docs/decisions/forked-writes.md).
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
    """The node's answer. UNKNOWN is what an older reader sees of a code that it doesn't know."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"  # recorded already; harmless
    STALE_SESSION = "STALE_SESSION"  # recorded and flagged
    SEQUENCE_GAP = "SEQUENCE_GAP"  # recorded; what is missing before it was made dirty
    REJECTED = "REJECTED"  # refused, whole or in part: `reason` says why
    UNKNOWN = "UNKNOWN"


class RejectReason(StrEnum):
    """Why a command was refused, whole or in part: a closed list, explained in docs/statuses.md."""

    UNDECODABLE = (
        "UNDECODABLE"  # not an Avro event of a known schema, or its columns contradict themselves
    )
    UNKNOWN_KIND = "UNKNOWN_KIND"  # a kind that this node is too old for
    UNKNOWN_VOLUME = "UNKNOWN_VOLUME"  # no such volume, or not in this partition
    MALFORMED_COMMAND = (
        "MALFORMED_COMMAND"  # a part of it contradicts itself; the others are recorded
    )
    OUT_OF_RANGE = "OUT_OF_RANGE"  # an extent, or a part of one, lies outside the volume
    SHRINKING = "SHRINKING"  # a RESIZE to fewer bytes
    VOLUME_RETIRED = "VOLUME_RETIRED"  # a RESIZE or NEW_GENERATION of a retired volume
    UNKNOWN_STATE = (
        "UNKNOWN_STATE"  # a change of a volume that is in a state that this node is too old for
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event, or a part of it, isn't recorded or changes nothing."""

    reason: RejectReason
    text: str


@dataclass(frozen=True, slots=True)
class CommandStatus:
    """The reply to the command at `position` of `partition`; the fields that weren't readable are None."""

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


@dataclass(frozen=True, slots=True, eq=False)
class AcceptedBatch:
    """The reply to n commands of one session for one volume: each is ACCEPTED, with nothing to add.

    positions: i64, ascending, of `partition`; sequences: i64, those of the commands (mirrorlog.statuses expands it).
    """

    partition: int
    at_us: int
    volume: str
    host: str
    session: str
    positions: npt.NDArray[np.int64]
    sequences: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A refused event with its bytes, why, and where it came from."""

    partition: int
    position: int
    reason: str
    text: str
    at_us: int
    key: bytes | None
    value: bytes | None
