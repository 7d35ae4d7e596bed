"""Writes a sealed journal to its secondary. It may be repeated: the result is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter

from mirrorlog.consumers.journal.journal_format import (
    EntriesPlace,
    SealedJournal,
    StagedRange,
    read_entries,
)
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice, StartsWriteback
from mirrorlog.ports.folders import StateFile
from mirrorlog.ports.task_runner import TaskRunner


def apply_journal(
    journal: SealedJournal,
    file: StateFile,
    secondary: BlockDevice,
    tasks: TaskRunner,
    on_step: Callable[[], None],
) -> None:
    """Write all entries to the secondary. They are durable when it returns.

    The entries of a round are written at once, those of a later round after them. on_step: called
    after each record, in the caller's thread. Raise DeviceFailed if a device fails, or if the
    journal isn't there any more as it was sealed; or what `on_step` raises. The secondary then
    holds a part of the entries.
    """

    def on_done(ranges: Sequence[StagedRange]) -> None:
        if ranges and isinstance(secondary, StartsWriteback):
            first = min(staged.offset for staged in ranges)
            end = max(staged.offset + staged.length for staged in ranges)
            secondary.start_writeback(offset=first, length=end - first)
        on_step()

    def writes(
        places: Iterator[EntriesPlace],
    ) -> Iterator[Callable[[], Sequence[StagedRange]]]:
        for place in places:
            yield partial(_write, journal, file, secondary, place)

    for _, places in groupby(journal.entries, attrgetter("round_number")):
        tasks.run(writes(places), on_done)
    secondary.flush()


def staged_ranges(journal: SealedJournal, file: StateFile) -> Iterator[StagedRange]:
    """Yield all ranges of a journal, in the order in which they were staged."""
    for place in journal.entries:
        yield from _ranges_at(journal, file, place)


def _write(
    journal: SealedJournal, file: StateFile, secondary: BlockDevice, place: EntriesPlace
) -> Sequence[StagedRange]:
    """Write the entries of one record; return them."""
    ranges = _ranges_at(journal, file, place)
    for offset, length, data in ranges:
        if data is None:
            secondary.zero(offset=offset, length=length)
        else:
            secondary.pwrite(offset, data)
    return [StagedRange(offset, length, None) for offset, length, _ in ranges]


def _ranges_at(
    journal: SealedJournal, file: StateFile, place: EntriesPlace
) -> Sequence[StagedRange]:
    ranges = read_entries(file.pread, journal.journal_id, place)
    if ranges is None:
        raise DeviceFailed(
            "the journal doesn't hold any more what was sealed in it",
            where=f"the journal of volume {journal.header.volume}, offset {place.offset}",
            next="Check the disk of the journals. The site copies the blocks from the primary.",
        )
    return ranges
