"""Writes a sealed journal to its secondary. It may be repeated: the result is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Final

from mirrorlog.consumers.journal.journal_format import (
    EntriesPlace,
    SealedJournal,
    StagedRange,
    read_columns,
    read_entries,
)
from mirrorlog.consumers.range_reads import PageMemory, zero_ranges
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice, StartsWriteback, WritesRanges
from mirrorlog.ports.folders import StateFile
from mirrorlog.ports.task_runner import TaskRunner

_DIRECT_BYTES: Final = 1 << 20
"""A smaller journal is written through the page cache (resync/restoration.py)."""


def apply_journal(
    journal: SealedJournal,
    file: StateFile,
    secondary: BlockDevice,
    tasks: TaskRunner,
    on_step: Callable[[], None],
    *,
    has_whole_pages: bool,
) -> None:
    """Write all entries to the secondary. They are durable when it returns.

    The entries of a round are written at once, those of a later round after them. on_step: called
    after each record, in the caller's thread. has_whole_pages: all ranges are multiples of 4 KiB.
    Nobody else writes to the secondary. Raise DeviceFailed if a device fails, or if the journal
    isn't there any more as it was sealed; or what `on_step` raises. The secondary then holds a part
    of the entries.
    """
    size_bytes = sum(place.record_bytes for place in journal.entries)
    writes = _Writes(journal, file, secondary, has_whole_pages and size_bytes >= _DIRECT_BYTES)

    def on_done(written: tuple[int, int]) -> None:
        start, end = written
        if end > start and isinstance(secondary, StartsWriteback):
            secondary.start_writeback(offset=start, length=end - start)
        on_step()

    for _, places in groupby(journal.entries, attrgetter("round_number")):
        tasks.run((partial(writes.write, place) for place in places), on_done)
    secondary.flush()


class _Writes:
    """Writes the entries of a journal to its secondary, in any number of threads."""

    def __init__(
        self, journal: SealedJournal, file: StateFile, secondary: BlockDevice, is_direct: bool
    ) -> None:
        self._journal, self._file, self._secondary = journal, file, secondary
        self._is_direct: Final = is_direct
        self._memory: Final = PageMemory()

    def write(self, place: EntriesPlace) -> tuple[int, int]:
        """Write the entries of one record; return (start, end) around those of data."""
        columns = read_columns(self._file.pread, self._journal.journal_id, place)
        if columns is None:
            raise _not_as_sealed(self._journal, place)
        zero_ranges(self._secondary, columns.zeros)
        written, data = columns.written, columns.data
        if not len(written):
            return 0, 0
        if not isinstance(self._secondary, WritesRanges):
            for offset, length, start in written:
                self._secondary.pwrite(offset, data[start : start + length])
        elif len(data):
            with self._memory.lent(len(data)) as memory:
                memory[: len(data)] = data
                self._secondary.pwrite_ranges(written, memory, is_only_writer=self._is_direct)
        ends = written.offsets + written.lengths
        return int(written.offsets.min()), int(ends.max())


def staged_ranges(journal: SealedJournal, file: StateFile) -> Iterator[StagedRange]:
    """Yield all ranges of a journal, in the order in which they were staged."""
    for place in journal.entries:
        yield from _ranges_at(journal, file, place)


def _ranges_at(
    journal: SealedJournal, file: StateFile, place: EntriesPlace
) -> Sequence[StagedRange]:
    ranges = read_entries(file.pread, journal.journal_id, place)
    if ranges is None:
        raise _not_as_sealed(journal, place)
    return ranges


def _not_as_sealed(journal: SealedJournal, place: EntriesPlace) -> DeviceFailed:
    return DeviceFailed(
        "the journal doesn't hold any more what was sealed in it",
        where=f"the journal of volume {journal.header.volume}, offset {place.offset}",
        next="Check the disk of the journals. The site copies the blocks from the primary.",
    )
