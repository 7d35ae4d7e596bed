"""JournalWriter stages what a cycle reads, and seals the journal."""

from __future__ import annotations

from threading import Lock
from typing import Final, NamedTuple
from uuid import UUID

from mirrorlog.consumers.journal.journal_format import (
    EntriesPlace,
    JournalHeader,
    SealedJournal,
    StagedRange,
    encode_close,
    encode_columns,
    encode_entries,
    encode_header,
    entries_bytes,
)
from mirrorlog.consumers.journal.journal_store import JournalFullError
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.ports.devices import Data
from mirrorlog.ports.folders import StateFile

_RECORD_BYTES: Final = 1 << 20
"""Ranges are written together in records of about that size."""
_RECORD_RANGES: Final = 1024
_CLOSE_BYTES: Final = 128 << 10
"""So much of the bound is kept for the closing record: a state takes at most half of it."""


class _Taken(NamedTuple):
    """Ranges whose record has its place, and isn't written yet."""

    place: EntriesPlace
    ranges: list[StagedRange]


class JournalWriter:
    """Writes one journal to an empty file. A copy can write to it as to a secondary (CopyTarget).

    The data that is passed to pwrite() must not change afterwards. Threads may call pwrite(),
    pwrite_ranges() and zero() at the same time; all other methods need the writer for themselves.

    max_bytes: the bound of the file. written_bytes: the size of the file so far.
    """

    def __init__(
        self, file: StateFile, header: JournalHeader, journal_id: UUID, *, max_bytes: int
    ) -> None:
        """Write the header. Raise JournalFullError, or DeviceFailed."""
        self.header: Final = header
        self._file, self._id, self._max_bytes = file, journal_id, max_bytes
        self._lock = Lock()
        self._entries: list[EntriesPlace] = []
        self._ranges: list[StagedRange] = []
        self._data_bytes = 0
        self._round = 0
        record = encode_header(journal_id, header)
        self.written_bytes = 0
        self._file.pwrite(self._take_room(len(record)), record)

    def begin_round(self) -> None:
        """Begin to stage ranges that replace what was staged before, where both overlap."""
        self.flush()
        self._round += 1

    def pwrite(self, offset: int, data: Data) -> None:
        """Stage data. Raise JournalFullError, or DeviceFailed."""
        self._stage(StagedRange(offset, len(data), data), len(data))

    def pwrite_ranges(
        self, ranges: RangeColumns, memory: memoryview, *, is_only_writer: bool
    ) -> None:
        """Write ranges of data as a record. Raise JournalFullError, or DeviceFailed."""
        del is_only_writer
        with self._lock:
            place = self._place(len(ranges), ranges.size_bytes)
        record = encode_columns(
            self._id, ranges, memory, number=place.number, round_number=place.round_number
        )
        self._file.pwrite(place.offset, record)

    def zero(self, *, offset: int, length: int) -> None:
        """Stage zeros. Raise JournalFullError, or DeviceFailed."""
        self._stage(StagedRange(offset, length, None), 0)

    def flush(self) -> None:
        """Write out what is staged. It isn't durable: only a sealed journal counts."""
        with self._lock:
            taken = self._take()
        self._write(taken)

    def seal(self, *, through: int, state: bytes) -> SealedJournal:
        """Close the journal; return it when all of it is durable.

        After an error or a crash meanwhile, the journal is sealed or it is nothing. Raise
        JournalFullError, or DeviceFailed.
        """
        self.flush()
        number = len(self._entries) + 1
        record = encode_close(self._id, number=number, through=through, state=state)
        self._file.pwrite(self._take_room(len(record), keep=0), record)
        self._file.sync()
        return SealedJournal(self._id, self.header, through, state, tuple(self._entries))

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._file.close()

    def _stage(self, staged: StagedRange, data_bytes: int) -> None:
        with self._lock:
            self._ranges.append(staged)
            self._data_bytes += data_bytes
            if self._data_bytes < _RECORD_BYTES and len(self._ranges) < _RECORD_RANGES:
                return
            taken = self._take()
        self._write(taken)

    def _take(self) -> _Taken | None:
        """Give the ranges that wait a record in the file. Lock held."""
        if not self._ranges:
            return None
        taken = _Taken(self._place(len(self._ranges), self._data_bytes), self._ranges)
        self._ranges, self._data_bytes = [], 0
        return taken

    def _place(self, ranges: int, data_bytes: int) -> EntriesPlace:
        """Give a record of so many ranges its place in the file. Lock held."""
        size = entries_bytes(ranges, data_bytes)
        place = EntriesPlace(self._take_room(size), size, len(self._entries) + 1, self._round)
        self._entries.append(place)
        return place

    def _take_room(self, size: int, *, keep: int = _CLOSE_BYTES) -> int:
        """Return the offset at which `size` more bytes are written. keep: bytes to leave free."""
        if self.written_bytes + size + keep > self._max_bytes:
            raise JournalFullError(f"the journal holds at most {self._max_bytes} bytes")
        offset, self.written_bytes = self.written_bytes, self.written_bytes + size
        return offset

    def _write(self, taken: _Taken | None) -> None:
        if taken is not None:
            place, ranges = taken
            record = encode_entries(
                self._id, ranges, number=place.number, round_number=place.round_number
            )
            self._file.pwrite(place.offset, record)
