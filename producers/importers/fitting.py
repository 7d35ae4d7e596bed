"""Fits the changes of a source to a volume, and makes batches of them.

Changes are shifted, checked against the volume's size, joined and dated, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.recorded_writes import I64
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.producers.importers.change import AddressRange, Change, ChangeKind, ImportSource

_EXTENT_KINDS: Final = {
    ChangeKind.DIRTY: ExtentKind.WRITE,
    ChangeKind.WRITE: ExtentKind.WRITE,
    ChangeKind.ZERO: ExtentKind.ZERO,
    ChangeKind.DISCARD: ExtentKind.DISCARD,
}


@dataclass(frozen=True, slots=True)
class FitOptions:
    """The options for fitting a source to a volume.

    shift: bytes to add to the source's addresses.
    clip: changes outside the volume are counted and left out. Otherwise they are an error.
    partial: a map may describe only a part of the volume. Otherwise that is an error, because the
    rest may have changed.
    allow_empty: a source that names nothing says that nothing changed. Otherwise that is an error,
    because a tool that failed leaves such a source.
    began_us: when the recording's first change was made, or since when the map records changes, in
    microseconds since 1970.
    """

    shift: int = 0
    clip: bool = False
    partial: bool = False
    allow_empty: bool = False
    began_us: int | None = None


def volume_range(volume: Volume, options: FitOptions) -> AddressRange:
    """Return the range of the source's addresses in which the volume lies."""
    return AddressRange(offset=-options.shift, length=volume.size_bytes)


@dataclass(slots=True)
class ImportCounts:
    """The counts of an import.

    commands: the number of commands with extents.
    extents, bytes: what the commands name. Overlaps count twice.
    zero_bytes: the part of `bytes` that reads as zeros.
    outside_extents, outside_bytes: what was left out because it lies outside the volume.
    recorded_since_us: the time of the first change that has a time of its own, in microseconds
    since 1970; None if none has.
    """

    commands: int = 0
    extents: int = 0
    bytes: int = 0
    zero_bytes: int = 0
    outside_extents: int = 0
    outside_bytes: int = 0
    recorded_since_us: int | None = None

    def add(self, change: Change, *, has_own_time: bool) -> None:
        """Count a change that is published. has_own_time: `at_us` says when it was made."""
        if has_own_time and change.at_us is not None:
            known_us = self.recorded_since_us
            self.recorded_since_us = (
                change.at_us if known_us is None else min(known_us, change.at_us)
            )
        self.extents += 1
        self.bytes += change.length
        if change.kind in (ChangeKind.ZERO, ChangeKind.DISCARD):
            self.zero_bytes += change.length


@dataclass(frozen=True, slots=True, eq=False)
class ImportBatch:
    """The content of one command.

    kind: WRITES or MARK_DIRTY.
    first_at_us, last_at_us: the times of the first and the last change, in microseconds since 1970.
    times_us: i64, of each extent; None if the extents have no times of their own.
    """

    kind: CommandKind
    extents: ExtentColumns
    first_at_us: int
    last_at_us: int
    times_us: npt.NDArray[np.int64] | None = None


def import_batches(
    source: ImportSource,
    volume: Volume,
    options: FitOptions,
    *,
    now_us: int,
    max_extents: int,
    counts: ImportCounts,
) -> Iterator[ImportBatch]:
    """Make a pass over the source, and yield batches of up to `max_extents` extents.

    now_us: the time of the import, in microseconds since 1970.
    counts: is updated with what the pass yields.
    BadInput, at the change in question, if the source is damaged or doesn't fit the volume.
    """
    changes = _fitted(source, volume, options, counts)
    if source.joins:
        changes = _joined(changes)
    has_own_times = source.dated or options.began_us is not None
    batches = {CommandKind.WRITES: _OpenBatch(), CommandKind.MARK_DIRTY: _OpenBatch()}
    for change in _dated(changes, source, options, now_us):
        counts.add(change, has_own_time=has_own_times)
        kind = CommandKind.MARK_DIRTY if change.kind is ChangeKind.DIRTY else CommandKind.WRITES
        batches[kind].add(change)
        if len(batches[kind].extents) >= max_extents:
            yield batches[kind].closed(kind, options, now_us, has_own_times=has_own_times)
            batches[kind] = _OpenBatch()
            counts.commands += 1
    for kind, batch in batches.items():
        if batch.extents:
            yield batch.closed(kind, options, now_us, has_own_times=has_own_times)
            counts.commands += 1


@dataclass(slots=True)
class _OpenBatch:
    """The extents of a batch that isn't full, and the times of those that have one."""

    extents: list[Extent] = field(default_factory=list)
    times_us: list[int] = field(default_factory=list)

    def add(self, change: Change) -> None:
        self.extents.append(Extent(change.offset, change.length, _EXTENT_KINDS[change.kind]))
        if change.at_us is not None:
            self.times_us.append(change.at_us)

    def closed(
        self, kind: CommandKind, options: FitOptions, now_us: int, *, has_own_times: bool
    ) -> ImportBatch:
        """Return the batch as a command's content.

        A change without a time was made between the beginning of the map, if that is known, and
        now. has_own_times: the times that changes have say when they were made.
        """
        times_us = self.times_us or [
            now_us if options.began_us is None else min(options.began_us, now_us),
            now_us,
        ]
        is_recorded = kind is CommandKind.WRITES and len(self.times_us) == len(self.extents)
        return ImportBatch(
            kind,
            ExtentColumns.of(self.extents),
            min(times_us),
            max(times_us),
            np.array(times_us, I64) if has_own_times and is_recorded else None,
        )


def _fitted(
    source: ImportSource, volume: Volume, options: FitOptions, counts: ImportCounts
) -> Iterator[Change]:
    """Yield the ranges that changed, at the volume's addresses."""
    changes = source.changes()
    if not options.allow_empty:
        changes = _checked_content(changes, source, volume)
    if options.shift:
        changes = (replace(change, offset=change.offset + options.shift) for change in changes)
    if source.whole and not options.partial:
        changes = _checked_coverage(changes, source, volume)
    for number, change in enumerate(changes, start=1):
        if change.kind is not ChangeKind.UNCHANGED:
            inside = _inside(change, source, volume, number, counts=counts, clip=options.clip)
            if inside is not None:
                yield inside


def _checked_content(
    changes: Iterator[Change], source: ImportSource, volume: Volume
) -> Iterator[Change]:
    """Yield the changes. Raise BadInput if there is none, not even an unchanged range."""
    first = next(changes, None)
    if first is None:
        raise BadInput(
            f"the source is empty: it names no {'range' if source.joins else 'write'}",
            where=f"{source.name} for volume {volume.volume}",
            next="If a tool in front of a pipe failed, its output means nothing; `set -o pipefail` "
            "shows that. If nothing changed, pass --allow-empty.",
        )
    yield first
    yield from changes


def _checked_coverage(
    changes: Iterator[Change], source: ImportSource, volume: Volume
) -> Iterator[Change]:
    """Yield the changes.

    Raise BadInput unless they describe each byte of the volume once, in order.
    """
    first = reached = 0
    for number, change in enumerate(changes, start=1):
        if number == 1:
            first = reached = change.offset
        if change.offset != reached:
            raise _misfit(
                source,
                number,
                f"a range begins at byte {change.offset}, and the one before ends at {reached}",
            )
        reached = change.end
        yield change
    if first > 0 or reached < volume.size_bytes:
        raise BadInput(
            "the map doesn't describe all of the volume: it reaches from byte "
            f"{first} to {reached}",
            where=f"volume {volume.volume} of {volume.size_bytes} bytes",
            next="Check that it is the right volume and the complete map. To import only what the "
            "map describes, pass --partial.",
        )


def _inside(
    change: Change,
    source: ImportSource,
    volume: Volume,
    number: int,
    *,
    counts: ImportCounts,
    clip: bool,
) -> Change | None:
    """Return the part of the change that lies inside the volume, or None if there is none.

    number: the change's number in the source. Raise BadInput if a part lies outside, unless `clip`.
    """
    start, end = max(change.offset, 0), min(change.end, volume.size_bytes)
    if end - start == change.length:
        return change
    if not clip:
        raise _misfit(
            source,
            number,
            f"{change.length} bytes from byte {change.offset} on aren't all inside volume "
            f"{volume.volume} of {volume.size_bytes} bytes",
        )
    counts.outside_extents += 1
    counts.outside_bytes += change.length - max(end - start, 0)
    return replace(change, offset=start, length=end - start) if end > start else None


def _misfit(source: ImportSource, number: int, problem: str) -> BadInput:
    return BadInput(
        f"the source doesn't fit: {problem}",
        where=f"{source.name}, range {number}",
        next="Check that it is the right volume. --offset-shift moves the addresses, and --clip "
        "leaves out what lies outside the volume.",
    )


def _joined(changes: Iterable[Change]) -> Iterator[Change]:
    """Join adjacent changes of one kind."""
    last: Change | None = None
    for change in changes:
        if last is not None and last.kind is change.kind and last.end == change.offset:
            last = replace(last, length=last.length + change.length)
            continue
        if last is not None:
            yield last
        last = change
    if last is not None:
        yield last


def _dated(
    changes: Iterable[Change], source: ImportSource, options: FitOptions, now_us: int
) -> Iterator[Change]:
    """Convert the times to microseconds since 1970.

    A time whose epoch is unknown becomes now, and so does a time in the future. `changed --since`
    may then name a block too many, but never one too few.
    """
    first_us: int | None = None
    for change in changes:
        if change.at_us is None:
            yield change
            continue
        first_us = change.at_us if first_us is None else first_us
        if options.began_us is not None:
            at_us = options.began_us + change.at_us - first_us
        else:
            at_us = change.at_us if source.dated else now_us
        yield replace(change, at_us=max(min(at_us, now_us), 0))
