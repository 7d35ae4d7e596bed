"""The spool: commands that wait for Kafka, in order, in a bounded number of bytes of the host's state folder.

Files of records, each named by its first record. A file is removed when Kafka has acknowledged all that it holds.

    header   magic 8s, version u16, session (UUID), number of the first record u64                       … CRC-32
    record   bytes of the name u16, bytes of the command u32, number u64, partition u32, name, command   … CRC-32

All little-endian; CRC-32 (zlib) over the bytes before it, of a record seeded with that of the header: no record of another
session passes for one of this. Numbers rise by one. The first record that isn't sound ends the spool: a torn one can't be
told from a flipped one. So the activity log says which records there must be, and where they aren't, the answer is "dirty".

Nothing here is durable before sync() (docs/decisions/host-spool.md).
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.folders import StateFile, StateFolder

MAGIC: Final = b"MLSPOOL\0"
VERSION: Final = 1
FILES: Final = 8
"""The bytes of a spool are spread over so many files: the finer, the sooner room is given back."""

_PREFIX: Final = "spool-"
_HEADER: Final = struct.Struct("<8sH16sQ")
_RECORD: Final = struct.Struct("<HIQI")
_CRC: Final = struct.Struct("<I")
_HEADER_BYTES: Final = _HEADER.size + _CRC.size


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One command: `value` are its bytes for `partition`."""

    partition: int
    volume: str
    value: bytes

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk."""
        return _RECORD.size + len(self.volume.encode()) + len(self.value) + _CRC.size


@dataclass(slots=True, eq=False)
class _Part:
    """One file. end: behind the last record; at: behind the last one taken; seed: the header's checksum."""

    name: str
    file: StateFile
    seed: int
    last: int
    end: int
    at: int
    is_synced: bool = False


class Spool:
    """One session's. The caller sees to it that one thread at a time is in here.

    Records are numbered from 1 as they come. last: number of the last one; kept: of the first one that is still on the
    disk; taken: of the last one that take() gave. Once a sync has failed it takes no more: nobody knows what the disk holds.
    """

    def __init__(self, folder: StateFolder, session: str, most_bytes: int) -> None:
        self.last = self.taken = 0
        self.kept = 1
        self._folder: Final = folder
        self._session: Final = session
        self._most_bytes: Final = most_bytes
        self._parts: Final[deque[_Part]] = deque()
        self._failed = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on the disk."""
        return not self._parts

    def append(self, record: SpoolRecord) -> bool:
        """Whether there was room for it."""
        size = record.size_bytes
        taken_bytes = sum(part.end for part in self._parts)
        if self._failed or taken_bytes + size + _HEADER_BYTES > self._most_bytes:
            return False
        try:
            if not self._parts or self._parts[-1].end + size > self._most_bytes // FILES:
                self._parts.append(self._new_part(self.last + 1))
            part = self._parts[-1]
            part.is_synced = False
            part.file.pwrite(part.end, _pack(self.last + 1, record, part.seed))
        except DeviceFailed:
            return False
        part.end += size
        self.last += 1
        part.last = self.last
        return True

    def take(self) -> SpoolRecord:
        """The record after the last one taken. StateDamaged, DeviceFailed where it can't be read."""
        part = next(part for part in self._parts if part.last > self.taken)
        head = part.file.pread(offset=part.at, length=_RECORD.size)
        size = _record_bytes(head) if len(head) == _RECORD.size else 0
        record = _unpack(part.file.pread(offset=part.at, length=size), part.seed, self.taken + 1)
        if record is None:
            raise StateDamaged(
                "the host's spool is damaged", where=f"{part.name}, offset {part.at}"
            )
        self.taken += 1
        part.at += size
        return record

    def skip(self) -> None:
        """Those that are there needn't be taken."""
        for part in self._parts:
            part.at = part.end
        self.taken = self.last

    def sync(self) -> bool:
        """Whether all records are durable now."""
        try:
            for part in self._parts:
                if not part.is_synced:
                    part.file.sync()
            self._folder.sync()
        except DeviceFailed:
            self._failed = True
            return False
        for part in self._parts:
            part.is_synced = True
        return not self._failed

    def droppable(self, below: int) -> int:
        """`below` rounded down to where a file begins: what is before it can be dropped once no record below is needed."""
        first = self.kept
        for part in self._parts:
            if part.last < below:
                first = part.last + 1
        return first

    def drop(self, below: int) -> None:
        """The files that hold nothing but records before `below` are gone."""
        while self._parts and self._parts[0].last < below:
            part = self._parts.popleft()
            self.kept = part.last + 1
            part.file.close()
            with suppress(
                DeviceFailed
            ):  # what is left there is no part of a later spool: its session differs
                self._folder.remove(part.name)

    def close(self) -> None:
        """Lets go of the files, which stay."""
        for part in self._parts:
            part.file.close()

    def _new_part(self, first: int) -> _Part:
        name = f"{_PREFIX}{first:020d}"
        body = _HEADER.pack(MAGIC, VERSION, UUID(self._session).bytes, first)
        file = self._folder.create(name)
        try:
            file.pwrite(0, body + _CRC.pack(zlib.crc32(body)))
        except DeviceFailed:
            file.close()
            with suppress(DeviceFailed):
                self._folder.remove(name)
            raise
        return _Part(name, file, zlib.crc32(body), first - 1, _HEADER_BYTES, _HEADER_BYTES)


def read_spool(
    folder: StateFolder, session: str | None, first: int
) -> Iterator[tuple[int, SpoolRecord]]:
    """What `session` left behind, numbered, from the record `first` on or a little before, up to the first that isn't sound."""
    sound = [
        (header, name)
        for name in sorted(_names(folder))
        if (header := _read_header(_content(folder, name)))
    ]
    mine = [(header, name) for header, name in sound if header[0] == session]
    begin = max((n for n, (header, _) in enumerate(mine) if header[1] <= first), default=0)
    expected: int | None = None
    for (_, number, seed), name in mine[begin:]:
        if expected not in (None, number):
            return
        expected, at, data = number, _HEADER_BYTES, _content(folder, name)
        while at < len(data):
            size = (
                _record_bytes(data[at : at + _RECORD.size]) if at + _RECORD.size <= len(data) else 0
            )
            record = _unpack(data[at : at + size], seed, expected)
            if record is None:
                return
            yield expected, record
            expected, at = expected + 1, at + size


def remove_spool(folder: StateFolder) -> None:
    """Nothing of any spool is left."""
    for name in _names(folder):
        folder.remove(name)


def _names(folder: StateFolder) -> list[str]:
    return [name for name in folder.names() if name.startswith(_PREFIX)]


def _content(folder: StateFolder, name: str) -> bytes:
    try:
        return folder.read(name) or b""
    except DeviceFailed:
        return b""  # as where it is damaged: what must be there isn't


def _read_header(data: bytes) -> tuple[str, int, int] | None:
    """(session, number of the first record, checksum); None where it isn't sound."""
    body = data[: _HEADER.size]
    if (
        len(data) < _HEADER_BYTES
        or _CRC.pack(zlib.crc32(body)) != data[_HEADER.size : _HEADER_BYTES]
    ):
        return None
    magic, version, session, first = _HEADER.unpack(body)
    if (magic, version) != (MAGIC, VERSION):
        return None
    return str(UUID(bytes=session)), first, zlib.crc32(body)


def _record_bytes(head: bytes) -> int:
    name_bytes, value_bytes, _, _ = _RECORD.unpack(head)
    return _RECORD.size + int(name_bytes) + int(value_bytes) + _CRC.size


def _pack(number: int, record: SpoolRecord, seed: int) -> bytes:
    name = record.volume.encode()
    body = (
        _RECORD.pack(len(name), len(record.value), number, record.partition) + name + record.value
    )
    return body + _CRC.pack(zlib.crc32(body, seed))


def _unpack(data: bytes, seed: int, number: int) -> SpoolRecord | None:
    """None where the bytes aren't the one sound record of that number."""
    if len(data) < _RECORD.size + _CRC.size or _record_bytes(data[: _RECORD.size]) != len(data):
        return None
    body = data[: -_CRC.size]
    name_bytes, _, found, partition = _RECORD.unpack_from(body)
    if found != number or _CRC.pack(zlib.crc32(body, seed)) != data[len(body) :]:
        return None
    name_end = _RECORD.size + name_bytes
    return SpoolRecord(partition, body[_RECORD.size : name_end].decode(), body[name_end:])
