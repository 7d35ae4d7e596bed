"""The log of one volume as a question uses it: what it covers without a hole, and from where on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from mirrorlog.changed.logs import LogView
from mirrorlog.changed.points import format_time
from mirrorlog.domain.commands import is_imported_host
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.tracking_log.coverage import Hole
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.records import LogRecord


class RecordPiece(NamedTuple):
    """The positions `(after, through]` of a record. record: its first part."""

    record: LogRecord
    after: int
    through: int


class ProvenLog:
    """A volume's log in one view. A record is a sequence of its parts, which agree on its range.

    watermark: the log is complete through it.
    """

    def __init__(self, volume: Volume, view: LogView) -> None:
        self._volume, self._view = volume, view
        self.watermark: Final = max(view.complete_through, volume.origin_position)

    def records(self) -> list[tuple[LogRecord, ...]]:
        """Return all complete records, by their positions. They may come without bitmaps."""
        return list(self._view.log.complete_records())

    def parts(self, record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Return the parts of a record, with their bitmaps."""
        return self._view.parts(record)

    def delays(self) -> list[PublicationDelays]:
        """Return what is known of the publication delays in the volume's history."""
        history_id = self._volume.history_id
        return [part for part in self._view.delays() if part.history_id == history_id]

    def close(self) -> None:
        """Release the view. parts() and delays() need it."""
        self._view.close()

    def prove(self, *, after: int, through: int) -> None:
        """Raise OutOfRetention unless the log covers `(after, through]` (invariant 5)."""
        # A hole may begin in the range and end above it: only the whole log above `after` tells.
        hole = self._hole(after)
        if hole is not None and hole.after < through:
            raise self.out_of_retention(
                f"the log has a hole: positions {hole.after + 1} to {hole.through} are covered by "
                "no record",
                after,
            )

    def answers_from(self) -> int:
        """Return the lowest position above which the log has no hole."""
        position = self._volume.origin_position
        while hole := self._hole(position):
            position = hole.through
        return position

    def first_parts(self, after: int) -> list[LogRecord]:
        """Return the first part of each record that adds something above `after`."""
        covering = covering_records(self.records(), after=after, through=self.watermark)
        return [record[0] for record in covering]

    def finest_pieces(self, after: int) -> list[RecordPiece]:
        """Return the pieces of the finest records that together add all that the log has.

        They are ascending and apart, above `after` and up to the watermark. Of two records that
        cover a position, the one of the lower tier counts: the times of its writes are closer.
        """
        by_tier: dict[int, list[LogRecord]] = {}
        for parts in self.records():
            by_tier.setdefault(parts[0].tier, []).append(parts[0])
        gaps, pieces = [(after, self.watermark)], list[RecordPiece]()
        for tier in sorted(by_tier):
            left: list[tuple[int, int]] = []
            for start, end in gaps:
                reached = start
                for record in by_tier[tier]:
                    if record.through > reached and record.after < end:
                        piece = RecordPiece(
                            record, max(record.after, reached), min(record.through, end)
                        )
                        if piece.after > reached:
                            left.append((reached, piece.after))
                        pieces.append(piece)
                        reached = piece.through
                if reached < end:
                    left.append((reached, end))
            gaps = left
        return sorted(pieces, key=lambda piece: piece.after)

    def out_of_retention(self, what: str, asked: object) -> OutOfRetention:
        """Return the error for a question that reaches below the log."""
        base = self.answers_from()
        at_us = self._volume.created_at_us or None
        if base > self._volume.origin_position:
            dated = (record for record in self.first_parts(base) if not is_imported(record))
            at_us = next((record.first_at_us for record in dated), None)
        return out_of_retention(self._volume, what, asked, base=base, at_us=at_us)

    def _hole(self, after: int) -> Hole | None:
        """Return the first hole above `after`, up to the watermark.

        The chain must also reach as far as the volume's head says.
        """
        if hole := self._view.log.hole(after=after, through=self.watermark):
            return hole
        head = self._view.log.head
        if head is None or head.generation != self._volume.generation_of_log:
            return None
        reached = max([after, *(record[0].through for record in self.records())])
        return Hole(reached, head.through) if reached < head.through <= self.watermark else None


def out_of_retention(
    volume: Volume, what: str, asked: object, *, base: int, at_us: int | None
) -> OutOfRetention:
    """Return the error that names the position, and the time, from which the log can answer."""
    time = None if at_us is None else format_time(at_us)
    return OutOfRetention(
        what,
        where=f"volume {volume.volume}, asked for {asked}",
        next=f"The log can answer from position {base} on{f', {time}' if time else ''}: "
        f"--since @{base}.",
    )


def is_imported(record: LogRecord) -> bool:
    """Return whether the record may hold an import: its times don't tell when its commands came."""
    return record.has_more_hosts or any(map(is_imported_host, record.hosts))


def covering_records(
    records: Iterable[tuple[LogRecord, ...]], *, after: int, through: int
) -> Iterator[tuple[LogRecord, ...]]:
    """Yield the records that overlap `(after, through]`, in order.

    A record whose range the ones before it cover is left out.
    """
    reached = after
    for record in records:
        if record[0].through > reached and record[0].after < through:
            reached = record[0].through
            yield record


def uncovered_ranges(
    records: Sequence[tuple[LogRecord, ...]], *, after: int, through: int
) -> Iterator[tuple[int, int]]:
    """Yield the (after, through) of the ranges between records that lie in `(after, through]`."""
    reached = after
    for record in records:
        if record[0].after > reached:
            yield reached, record[0].after
        reached = record[0].through
    if through > reached:
        yield reached, through
