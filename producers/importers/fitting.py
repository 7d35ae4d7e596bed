"""Changes as a source tells them, made to fit a volume: moved, held against its size, joined, dated and put into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
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
    """How a source is held against a volume.

    shift: added to the source's addresses, in bytes.
    clip: what lies outside the volume is counted and left out; else it is an error.
    partial: a map may say less than the whole volume; else that is an error, for nobody knows what it leaves out.
    began_us: microseconds since 1970: when the recording's first change was, or since when the map counts.
    """

    shift: int = 0
    clip: bool = False
    partial: bool = False
    began_us: int | None = None


def volume_range(volume: Volume, options: FitOptions) -> AddressRange:
    """Where the volume lies in the source's addresses."""
    return AddressRange(-options.shift, volume.size_bytes)


@dataclass(slots=True)
class ImportCounts:
    """What an import amounts to.

    commands: with extents. extents, bytes: named, overlaps twice. zero_bytes: of those, what reads as zeros.
    outside_extents, outside_bytes: left out, because they lie outside the volume.
    """

    commands: int = 0
    extents: int = 0
    bytes: int = 0
    zero_bytes: int = 0
    outside_extents: int = 0
    outside_bytes: int = 0

    def take(self, change: Change) -> None:
        """Counts a change that is published."""
        self.extents += 1
        self.bytes += change.length
        if change.kind in (ChangeKind.ZERO, ChangeKind.DISCARD):
            self.zero_bytes += change.length


@dataclass(frozen=True, slots=True, eq=False)
class ImportBatch:
    """What one command says: WRITES or MARK_DIRTY; the times of the first and the last change, microseconds since 1970."""

    kind: CommandKind
    extents: ExtentColumns
    first_at_us: int
    last_at_us: int


def import_batches(
    source: ImportSource,
    volume: Volume,
    options: FitOptions,
    now_us: int,
    max_extents: int,
    counts: ImportCounts,
) -> Iterator[ImportBatch]:
    """A pass over the source: what is to be published, in batches of up to `most` extents, counted in `counts`.

    BadInput, at the change that is wrong, for a source that is broken or doesn't fit.
    """
    changes = _fitted(source, volume, options, counts)
    if source.joins:
        changes = _joined(changes)
    batches = {CommandKind.WRITES: _OpenBatch(), CommandKind.MARK_DIRTY: _OpenBatch()}
    for change in _dated(changes, source, options, now_us):
        counts.take(change)
        kind = CommandKind.MARK_DIRTY if change.kind is ChangeKind.DIRTY else CommandKind.WRITES
        batches[kind].add(change)
        if len(batches[kind].extents) >= max_extents:
            yield batches[kind].closed(kind, options, now_us)
            batches[kind] = _OpenBatch()
            counts.commands += 1
    for kind, batch in batches.items():
        if batch.extents:
            yield batch.closed(kind, options, now_us)
            counts.commands += 1


@dataclass(slots=True)
class _OpenBatch:
    extents: list[Extent] = field(default_factory=list)
    times_us: list[int] = field(default_factory=list)

    def add(self, change: Change) -> None:
        self.extents.append(Extent(change.offset, change.length, _EXTENT_KINDS[change.kind]))
        if change.at_us is not None:
            self.times_us.append(change.at_us)

    def closed(self, kind: CommandKind, options: FitOptions, now_us: int) -> ImportBatch:
        """A change without a time was made between the beginning of the map, if that is known, and now."""
        times = self.times_us or [
            now_us if options.began_us is None else min(options.began_us, now_us),
            now_us,
        ]
        return ImportBatch(kind, ExtentColumns.of(self.extents), min(times), max(times))


def _fitted(
    source: ImportSource, volume: Volume, options: FitOptions, counts: ImportCounts
) -> Iterator[Change]:
    """Only what changed, in the volume's addresses."""
    changes = source.changes()
    if options.shift:
        changes = (replace(each, offset=each.offset + options.shift) for each in changes)
    if source.whole and not options.partial:
        changes = _covering(changes, source, volume)
    for count, change in enumerate(changes, start=1):
        if change.kind is not ChangeKind.UNCHANGED:
            yield from _inside(change, source, volume, options, counts, count)


def _covering(changes: Iterator[Change], source: ImportSource, volume: Volume) -> Iterator[Change]:
    """The changes of a map that says something of every byte of the volume, once."""
    first = reached = 0
    for count, change in enumerate(changes, start=1):
        if count == 1:
            first = reached = change.offset
        if change.offset != reached:
            raise _misfit(
                source,
                count,
                f"a range begins at byte {change.offset}, and the one before ends at {reached}",
            )
        reached = change.end
        yield change
    if first > 0 or reached < volume.size_bytes:
        raise BadInput(
            f"the map says nothing of a part of the volume: it reaches from byte {first} to {reached}",
            where=f"volume {volume.volume} of {volume.size_bytes} bytes",
            next="Is it the right volume, and the whole map? If only what the map covers is meant, say --partial.",
        )


def _inside(
    change: Change,
    source: ImportSource,
    volume: Volume,
    options: FitOptions,
    counts: ImportCounts,
    count: int,
) -> Iterator[Change]:
    start, end = max(change.offset, 0), min(change.end, volume.size_bytes)
    if end - start == change.length:
        yield change
        return
    if not options.clip:
        raise _misfit(
            source,
            count,
            f"{change.length} bytes from byte {change.offset} on aren't all inside volume {volume.volume} "
            f"of {volume.size_bytes} bytes",
        )
    counts.outside_extents += 1
    counts.outside_bytes += change.length - max(end - start, 0)
    if end > start:
        yield replace(change, offset=start, length=end - start)


def _misfit(source: ImportSource, count: int, what: str) -> BadInput:
    return BadInput(
        f"the source doesn't fit: {what}",
        where=f"{source.name}, range {count}",
        next="Is it the right volume? --offset-shift moves the addresses, --clip leaves out what lies outside.",
    )


def _joined(changes: Iterable[Change]) -> Iterator[Change]:
    """Neighbours of a kind as one."""
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
    """Times counted from 1970. Those that count from nobody knows when, and those to come, become now: `changed --since` may
    name a block too many, never one too few."""
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
