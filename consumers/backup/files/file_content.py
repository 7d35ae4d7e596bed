"""The content of one file, as The Sleuth Kit reads it: in pieces, without what is a hole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mirrorlog.adapters.range_locks import pieces
from mirrorlog.consumers.backup.files.records import FileData
from mirrorlog.consumers.file_names.name_table import shown_name
from mirrorlog.consumers.file_names.tsk_walk import READ_FAILED

PIECE_BYTES: Final = 1 << 20
_DEFAULT: Final = 1
_NTFS_DATA: Final = 128
_HFS_DATA: Final = 0x1100
_HFS_RESOURCES: Final = 0x1101
_CONTENTS: Final = frozenset({_DEFAULT, _NTFS_DATA, _HFS_DATA})
"""The types of attributes that are the content of a file (TSK_FS_ATTR_TYPE_ENUM)."""
_IS_COMPRESSED, _IS_ENCRYPTED = 0x10, 0x20
_NOT_RESIDENT: Final = 0x02
_FILLER, _HOLE, _ENCRYPTED_RUN = 0x01, 0x02, 0x04
"""Flags of attributes and runs (TSK_FS_ATTR_FLAG_ENUM, TSK_FS_ATTR_RUN_FLAG_ENUM)."""


class NotWhole(Exception):
    """The content of a file can't be read as a whole. The text says why."""


@dataclass(frozen=True, slots=True)
class FileParts:
    """What a file consists of. content: the attribute with its bytes; None if it has none.

    streams: the names of what else it holds: named streams of NTFS, the resource fork of HFS+.
    written_bytes: what is behind them is zeros; None: nothing is.
    """

    content: Any | None
    streams: tuple[str, ...]
    written_bytes: int | None = None


def file_parts(file: Any) -> FileParts:
    """Return what a file consists of. Raise NotWhole if its attributes can't be read."""
    content, streams = None, []
    try:
        for attribute in file:
            kind, name = int(attribute.info.type), attribute.info.name
            if kind == _NTFS_DATA and name and name != b"$Data":
                streams.append(shown_name(name))
            elif kind == _HFS_RESOURCES and int(attribute.info.size):
                streams.append("resource fork")
            elif kind in _CONTENTS and content is None:
                content = attribute
    except READ_FAILED as error:
        raise NotWhole(f"its attributes can't be read: {error}") from error
    return FileParts(content, tuple(streams))


def content_of(
    file: Any, parts: FileParts, block_bytes: int, *, fillers_are_holes: bool
) -> Iterator[FileData]:
    """Yield the content of a file, ascending. What is between the pieces is zeros.

    fillers_are_holes: The Sleuth Kit calls the holes of ext4 fillers. With other file systems they
    stand for what it didn't find.

    Raise NotWhole if it can't be read, or if parts of it are missing.
    """
    size_bytes = int(file.info.meta.size)
    if size_bytes == 0:
        return
    written_bytes = size_bytes if parts.written_bytes is None else parts.written_bytes
    hole_flags = _HOLE | _FILLER if fillers_are_holes else _HOLE
    for start, end in _held(parts.content, size_bytes, block_bytes, hole_flags):
        held = max(0, min(end, written_bytes) - start)
        for offset, length in pieces(offset=start, length=held, most_bytes=PIECE_BYTES):
            try:
                data = bytes(file.read_random(offset, length))
            except READ_FAILED as error:
                raise NotWhole(f"byte {offset} can't be read: {error}") from error
            if len(data) != length:
                raise NotWhole(f"only {len(data)} of {length} bytes can be read at byte {offset}")
            yield FileData(offset, data)


def _held(
    attribute: Any | None, size_bytes: int, block_bytes: int, hole_flags: int
) -> Iterator[tuple[int, int]]:
    """Yield the ranges [start, end) of a file that may be more than zeros."""
    if attribute is None:
        raise NotWhole("nothing says where its content is")
    flags = int(attribute.info.flags)
    if flags & _IS_ENCRYPTED:
        raise NotWhole("it is encrypted")
    if flags & _IS_COMPRESSED or not flags & _NOT_RESIDENT:
        yield 0, size_bytes
        return
    reached = 0
    for run in attribute:
        run_flags = int(run.flags)
        start, length = int(run.offset) * block_bytes, int(run.len) * block_bytes
        if run_flags & _ENCRYPTED_RUN:
            raise NotWhole("it is encrypted")
        if start != reached or run_flags & _FILLER & ~hole_flags:
            raise NotWhole(f"nothing says where byte {reached} is")
        reached = start + length
        if not run_flags & hole_flags and start < size_bytes:
            yield start, min(reached, size_bytes)
    if reached < size_bytes:
        raise NotWhole(f"nothing says where byte {reached} is")
