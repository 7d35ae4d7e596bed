"""The spool: commands that wait for Kafka, in order, in the host's state folder, within a limit.

A spool is a sequence of files, each named by the number of its first record. A file is removed
when Kafka has acknowledged every record in it.

    header   magic 8s, version u16, session (UUID), number of the first record u64, CRC-32
    record   length of the name u16, length of the command u32, number u64, partition u32,
             the volume's name, the command, CRC-32

All integers are little-endian. Each CRC-32 (zlib) covers the bytes before it; that of a record is
seeded with that of the file's header, so that a record of another session never passes for one of
this session. Record numbers rise by one. The first record that isn't valid ends the spool: a torn
record can't be told from a corrupted one. Therefore the activity log says which records the spool
must hold; if it doesn't hold them, the volumes are dirty as a whole.

Nothing here is durable before sync() returns (docs/decisions/host-spool.md).
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.folders import StateFile, StateFolder

MAGIC: Final = b"MLSPOOL\0"
VERSION: Final = 1
FILES: Final = 8
"""The number of files that a full spool has. With more files, space is freed sooner."""

_PREFIX: Final = "spool-"
_HEADER: Final = struct.Struct("<8sH16sQ")
_RECORD: Final = struct.Struct("<HIQI")
_CRC: Final = struct.Struct("<I")
_HEADER_BYTES: Final = _HEADER.size + _CRC.size


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One encoded command, `value`, for `partition`. volume: its key; empty if it names none."""

    partition: int
    volume: str
    value: bytes

    @property
    def size_bytes(self) -> int:
        """The size of the record in a file."""
        return _RECORD.size + len(self.volume.encode()) + len(self.value) + _CRC.size


class _Header(NamedTuple):
    """A file's header. crc: its checksum, the seed of the checksums of the file's records."""

    session: str
    first: int
    crc: int


@dataclass(slots=True, eq=False)
class _SpoolFile:
    """One file of the spool.

    crc: the checksum of its header.
    last: the number of its last record.
    end: the offset behind its last record.
    read_end: the offset behind the last record that was read.
    """

    name: str
    file: StateFile
    crc: int
    last: int
    end: int
    read_end: int
    is_synced: bool = False


class Spool:
    """The spool of one session. The caller lets only one thread at a time call it.

    Records are numbered from 1 in the order of append(). After a failed sync the spool takes no
    more records, because nobody knows what the disk holds.

    last: the number of the last record.
    last_read: the number of the last record that read_next() returned, or mark_all_read() passed.
    first_kept: the number of the first record that is still on the disk.
    """

    def __init__(self, folder: StateFolder, session: str, *, limit_bytes: int) -> None:
        """Create a spool without files.

        limit_bytes: how much all files together may hold; 0 if nothing is to be spooled.
        """
        self.last = self.last_read = 0
        self.first_kept = 1
        self._folder: Final = folder
        self._session: Final = session
        self._limit_bytes: Final = limit_bytes
        self._files: Final[deque[_SpoolFile]] = deque()
        self._failed = False

    @property
    def is_empty(self) -> bool:
        """Return whether the spool has no file."""
        return not self._files

    @property
    def used_bytes(self) -> int:
        """The disk space that the files take. Any thread may ask."""
        return sum(file.end for file in self._files.copy())

    def append(self, record: SpoolRecord) -> bool:
        """Write the record, not yet durably. Return False if there is no room for it."""
        size = record.size_bytes
        used_bytes = sum(file.end for file in self._files)
        if self._failed or used_bytes + size + _HEADER_BYTES > self._limit_bytes:
            return False
        try:
            if not self._files or self._files[-1].end + size > self._limit_bytes // FILES:
                self._files.append(self._create_file(self.last + 1))
            file = self._files[-1]
            file.is_synced = False
            file.file.pwrite(file.end, _pack(record, number=self.last + 1, header_crc=file.crc))
        except DeviceFailed:
            return False
        file.end += size
        self.last += 1
        file.last = self.last
        return True

    def read_next(self) -> SpoolRecord:
        """Return the record after `last_read`. There must be one.

        Errors: StateDamaged if the record isn't valid, DeviceFailed if it can't be read.
        """
        file = next(file for file in self._files if file.last > self.last_read)
        head = file.file.pread(offset=file.read_end, length=_RECORD.size)
        size = _record_bytes(head) if len(head) == _RECORD.size else 0
        content = file.file.pread(offset=file.read_end, length=size)
        record = _unpack(content, number=self.last_read + 1, header_crc=file.crc)
        if record is None:
            raise StateDamaged(
                "the host's spool is damaged", where=f"{file.name}, offset {file.read_end}"
            )
        self.last_read += 1
        file.read_end += size
        return record

    def mark_all_read(self) -> None:
        """Let read_next() pass over every record that there is now."""
        for file in self._files:
            file.read_end = file.end
        self.last_read = self.last

    def sync(self) -> bool:
        """Make all records durable. Return False if that failed."""
        try:
            for file in self._files:
                if not file.is_synced:
                    file.file.sync()
            self._folder.sync()
        except DeviceFailed:
            self._failed = True
            return False
        for file in self._files:
            file.is_synced = True
        return not self._failed

    def removable_below(self, number: int) -> int:
        """Return `number` rounded down to the first record of a file.

        Once no record below `number` is needed, remove_below() may remove the records below the
        result.
        """
        first = self.first_kept
        for file in self._files:
            if file.last < number:
                first = file.last + 1
        return first

    def remove_below(self, number: int) -> None:
        """Remove each file that holds only records below `number`."""
        while self._files and self._files[0].last < number:
            file = self._files.popleft()
            self.first_kept = file.last + 1
            file.file.close()
            with suppress(DeviceFailed):  # a later session ignores it: the session differs
                self._folder.remove(file.name)

    def close(self) -> None:
        """Close the files, and leave them in the folder."""
        for file in self._files:
            file.file.close()

    def _create_file(self, first: int) -> _SpoolFile:
        """Create the file whose first record is `first`; DeviceFailed if that fails."""
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
        return _SpoolFile(
            name,
            file,
            crc=zlib.crc32(body),
            last=first - 1,
            end=_HEADER_BYTES,
            read_end=_HEADER_BYTES,
        )


def read_spool(
    folder: StateFolder, session: str | None, first: int
) -> Iterator[tuple[int, SpoolRecord]]:
    """Yield the valid records of `session`, with their numbers, up to the first that isn't valid.

    The file that holds the record `first` is read from its beginning, so that some records below
    `first` may come, too.
    """
    headers = [
        (header, name)
        for name in sorted(_names(folder))
        if (header := _read_header(_content(folder, name)))
    ]
    own = [(header, name) for header, name in headers if header.session == session]
    begin = max((n for n, (header, _) in enumerate(own) if header.first <= first), default=0)
    expected: int | None = None
    for header, name in own[begin:]:
        if expected not in (None, header.first):
            return
        expected, at, data = header.first, _HEADER_BYTES, _content(folder, name)
        while at < len(data):
            head = data[at : at + _RECORD.size]
            size = _record_bytes(head) if len(head) == _RECORD.size else 0
            record = _unpack(data[at : at + size], number=expected, header_crc=header.crc)
            if record is None:
                return
            yield expected, record
            expected, at = expected + 1, at + size


def remove_spool(folder: StateFolder) -> None:
    """Remove the spool files of every session."""
    for name in _names(folder):
        folder.remove(name)


def _names(folder: StateFolder) -> list[str]:
    return [name for name in folder.names() if name.startswith(_PREFIX)]


def _content(folder: StateFolder, name: str) -> bytes:
    """Return the file's bytes; none if it can't be read, which then counts as damage."""
    try:
        return folder.read(name) or b""
    except DeviceFailed:
        return b""


def _read_header(data: bytes) -> _Header | None:
    """Return the header of a spool file; None if it isn't valid."""
    body = data[: _HEADER.size]
    if (
        len(data) < _HEADER_BYTES
        or _CRC.pack(zlib.crc32(body)) != data[_HEADER.size : _HEADER_BYTES]
    ):
        return None
    magic, version, session, first = _HEADER.unpack(body)
    if (magic, version) != (MAGIC, VERSION):
        return None
    return _Header(str(UUID(bytes=session)), first, zlib.crc32(body))


def _record_bytes(head: bytes) -> int:
    """Return the size of the record that begins with `head`."""
    name_bytes, value_bytes, _, _ = _RECORD.unpack(head)
    return _RECORD.size + int(name_bytes) + int(value_bytes) + _CRC.size


def _pack(record: SpoolRecord, *, number: int, header_crc: int) -> bytes:
    name = record.volume.encode()
    body = (
        _RECORD.pack(len(name), len(record.value), number, record.partition) + name + record.value
    )
    return body + _CRC.pack(zlib.crc32(body, header_crc))


def _unpack(data: bytes, *, number: int, header_crc: int) -> SpoolRecord | None:
    """Return the record that `data` is; None if it isn't the valid record `number`."""
    if len(data) < _RECORD.size + _CRC.size or _record_bytes(data[: _RECORD.size]) != len(data):
        return None
    body = data[: -_CRC.size]
    name_bytes, _, actual_number, partition = _RECORD.unpack_from(body)
    if actual_number != number or _CRC.pack(zlib.crc32(body, header_crc)) != data[len(body) :]:
        return None
    name_end = _RECORD.size + name_bytes
    return SpoolRecord(partition, body[_RECORD.size : name_end].decode(), body[name_end:])
