"""The columns of a volume's history, as data.

A row is one extent of a command, in the order of the positions and, within a command, of the
extents. A command that is no batch of writes has a row of its own, without an extent, before the
rows of the extents that it names. The names of the columns are the same in JSON, CSV, Parquet,
Arrow and SQL. Readers rely on them: add columns at the end, and never give one another meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt


class RowKind(StrEnum):
    """The kinds of row: a closed list. The value is what people and programs see."""

    WRITE = "write"  # the extent was written
    ZERO = "zero"  # the extent was zeroed
    DISCARD = "discard"  # the extent was discarded
    # The extent may have changed: recovered regions, a region that a resize added, what was in
    # flight at a barrier, or an operator says so.
    DIRTY = "dirty"
    EMPTY = "empty"  # a command that changes no block, such as a read or a flush from the wire
    BARRIER = "barrier"  # a named point; `note` is its name
    HEARTBEAT = "heartbeat"  # the session lives
    SESSION_OPEN = "session_open"
    SESSION_CLOSE = "session_close"
    RESIZE = "resize"  # the volume has `size_bytes` from here on, if the node accepted it
    RETIRE = "retire"
    NEW_GENERATION = "new_generation"  # the history is broken; `new_generation` begins behind it
    PROMOTE = "promote"  # the secondary of a site is the primary from here on
    # The extent is no address of the volume, or the event is no command: the node refused it, and
    # `reason` says why. It isn't a change of the volume.
    REFUSED = "refused"
    UNKNOWN = "unknown"  # a command of a kind that this version doesn't know


class RowClock(StrEnum):
    """Whose clock the times `first_at_us` and `last_at_us` are of."""

    HOST = "host"  # the host's; the row's write lies between the two
    RECORDING = "recording"  # the recording's, which was imported: both are the write's own time


CHANGES: Final = (RowKind.WRITE, RowKind.ZERO, RowKind.DISCARD, RowKind.DIRTY)
"""The kinds of row whose extent changed, or may have."""


class ColumnType(StrEnum):
    """The types of columns."""

    TEXT = "text"
    I32 = "i32"
    U32 = "u32"
    I64 = "i64"
    U64 = "u64"
    FORKS = "forks"  # a list of pairs of texts: a site and the outcome there


NUMBER_TYPES: Final[dict[ColumnType, npt.DTypeLike]] = {
    ColumnType.I32: np.int32,
    ColumnType.U32: np.uint32,
    ColumnType.I64: np.int64,
    ColumnType.U64: np.uint64,
}


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """One column. nullable: a row may lack it; null means that the value doesn't exist or isn't
    known."""

    name: str
    type: ColumnType
    nullable: bool
    meaning: str


def _required(name: str, kind: ColumnType, meaning: str) -> ColumnDefinition:
    return ColumnDefinition(name, kind, False, meaning)


def _nullable(name: str, kind: ColumnType, meaning: str) -> ColumnDefinition:
    return ColumnDefinition(name, kind, True, meaning)


COLUMNS: Final = (
    _required("volume", ColumnType.TEXT, "name of the volume"),
    _required("partition", ColumnType.I32, "partition of the commands topic"),
    _required("position", ColumnType.U64, "log position of the command: it orders the rows"),
    _required("extent", ColumnType.U32, "number of the row within its command, from 0"),
    _nullable("offset", ColumnType.U64, "first byte of the extent; null without an extent"),
    _nullable("length", ColumnType.U64, "bytes of the extent; null without an extent"),
    _required("kind", ColumnType.TEXT, "a RowKind"),
    _nullable("first_at_us", ColumnType.I64, "the first write of the command, by `clock`"),
    _nullable("last_at_us", ColumnType.I64, "the last write of the command, by `clock`"),
    _nullable("appended_at_us", ColumnType.I64, "when the broker appended it, by its clock"),
    _nullable("host", ColumnType.TEXT, "the host that sent the command"),
    _nullable("session", ColumnType.TEXT, "one run of the host"),
    _nullable("sequence", ColumnType.I64, "number of the command in its session and volume"),
    _nullable("generation", ColumnType.TEXT, "the volume's generation that the command names"),
    _nullable("note", ColumnType.TEXT, "name of a barrier, or why a range was marked dirty"),
    _nullable("size_bytes", ColumnType.U64, "of a resize: the size that it asks for"),
    _nullable("status", ColumnType.TEXT, "the node's StatusCode; null if it isn't kept any more"),
    _nullable("forks", ColumnType.FORKS, "outcome at each site to which the host sent the write"),
    _nullable("new_generation", ColumnType.TEXT, "of a new_generation or promote"),
    _nullable("reason", ColumnType.TEXT, "a RejectReason, found in the command itself"),
    _nullable("clock", ColumnType.TEXT, "a RowClock: whose the times of the write are"),
)
"""The columns in their order. Times are microseconds since 1970, UTC."""

BY_NAME: Final = {column.name: column for column in COLUMNS}

FORK_OUTCOMES: Final = ("missed", "has", "open")
"""The outcomes of `forks`, by the number of the ForkOutcome. open: not known at that position; the
session names the extent again."""
