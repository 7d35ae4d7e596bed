"""What is found in file systems, as records one after another, and their bytes on a pipe. Pure.

A frame is its kind (1 byte), the length of its body (4 bytes, big-endian), and the body: the fields
of the record as JSON, or for data its offset in the file (8 bytes, big-endian) and the bytes. In
JSON, names are texts with a character for each byte (Latin-1).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from mirrorlog.errors import MirrorlogError, error_kind
from mirrorlog.json_text import parse_json

_FRAME: Final = struct.Struct(">BI")
_OFFSET: Final = struct.Struct(">Q")
MAX_BODY_BYTES: Final = 2 << 20
"""No frame is longer. So a reader needs no more memory than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file system keeps of a file. None: it keeps no such thing.

    mode: the permissions, 12 bits. mtime_ns, atime_ns: nanoseconds since 1970.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None

    @property
    def times_ns(self) -> tuple[int, int] | None:
        """The times of the last read and the last write, as os.utime() takes them; or None."""
        if self.mtime_ns is None:
            return None
        return self.mtime_ns if self.atime_ns is None else self.atime_ns, self.mtime_ns


@dataclass(frozen=True, slots=True)
class EnterFolder:
    """What follows is in this folder, until LeaveFolder. is_wanted: it was asked for, with all."""

    name: bytes
    facts: FileFacts
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class LeaveFolder:
    """The end of the last folder that was entered."""


@dataclass(frozen=True, slots=True)
class BeginFile:
    """A file. Its data follow, ascending, and then EndFile. What no data cover is zeros."""

    name: bytes
    facts: FileFacts
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileData:
    """Bytes of the file that was begun."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class EndFile:
    """The end of a file. problem: why its content isn't whole; None if it is."""

    problem: str | None


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A symbolic link."""

    name: bytes
    target: bytes
    facts: FileFacts


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that isn't restored. path: its absolute path in the file system."""

    path: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader of the files has to know."""

    what: str


@dataclass(frozen=True, slots=True)
class Finished:
    """There is nothing more. Without this record, the process that reads was cut off."""


Record: TypeAlias = (
    EnterFolder
    | LeaveFolder
    | BeginFile
    | FileData
    | EndFile
    | FoundLink
    | Problem
    | Note
    | Finished
)
_KINDS: Final[tuple[type[Any], ...]] = (
    EnterFolder,
    LeaveFolder,
    BeginFile,
    FileData,
    EndFile,
    FoundLink,
    Problem,
    Note,
    Finished,
)
_ERROR: Final = 255
_BYTES: Final = frozenset({"name", "target", "path"})


def encode_record(record: Record) -> bytes:
    """Return the frame of a record."""
    kind = _KINDS.index(type(record))
    if isinstance(record, FileData):
        return _framed(kind, _OFFSET.pack(record.offset) + record.data)
    fields = asdict(record)
    for name in _BYTES & fields.keys():
        fields[name] = fields[name].decode("latin-1")
    return _framed(kind, json.dumps(fields).encode())


def encode_error(error: MirrorlogError) -> bytes:
    """Return the frame of an error, with which the reading ended."""
    return _framed(_ERROR, json.dumps(error.as_message()).encode())


def _framed(kind: int, body: bytes) -> bytes:
    return _FRAME.pack(kind, len(body)) + body


class FrameDecoder:
    """Takes the bytes of frames in pieces, and returns the records that are whole."""

    def __init__(self) -> None:
        self._left = bytearray()

    def take(self, piece: bytes) -> Iterator[Record]:
        """Yield the records that end in this piece.

        Raise the error with which the reading ended, if it did; ValueError for bytes that are no
        frames.
        """
        self._left += piece
        while len(self._left) >= _FRAME.size:
            kind, length = _FRAME.unpack_from(self._left)
            if length > MAX_BODY_BYTES:
                raise ValueError(f"a record of {length} bytes")
            end = _FRAME.size + length
            if len(self._left) < end:
                return
            body = bytes(self._left[_FRAME.size : end])
            del self._left[:end]
            yield _decoded(kind, body)


def _decoded(kind: int, body: bytes) -> Record:
    if kind == _ERROR:
        raise _error(parse_json(body))
    if kind >= len(_KINDS):
        raise ValueError(f"a record of the kind {kind}")
    if _KINDS[kind] is FileData:
        return FileData(_OFFSET.unpack_from(body)[0], body[_OFFSET.size :])
    fields = parse_json(body)
    for name in _BYTES & fields.keys():
        fields[name] = fields[name].encode("latin-1")
    if "facts" in fields:
        fields["facts"] = FileFacts(**fields["facts"])
    record: Record = _KINDS[kind](**fields)
    return record


def _error(fields: dict[str, Any]) -> MirrorlogError:
    kind = error_kind(str(fields["code"])) or MirrorlogError
    what, where, advice = (str(fields[name] or "") for name in ("what", "where", "next"))
    return kind(what, where=where, next=advice)
