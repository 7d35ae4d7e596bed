"""RecordDigests: what records say, as digests, so that all of a partition fit into memory.

The record of a day may be larger than all other records together.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mirrorlog.domain.bitmaps import BlockSet, fingerprint
from mirrorlog.tracking_log.keys import RecordKey
from mirrorlog.tracking_log.records import LogRecord


class RecordSpan(NamedTuple):
    """One record with all of its parts. The order of spans is by volume and position."""

    volume: str
    after: int
    through: int
    tier: int

    @classmethod
    def of(cls, record: LogRecord | RecordKey) -> RecordSpan:
        """Return the span of a record or of a key."""
        return cls(record.volume, record.after, record.through, record.tier)


class _PartDigest(NamedTuple):
    """first: the first block of the part. changed, zeroed: fingerprints of its blocks."""

    first: int
    changed: bytes
    zeroed: bytes


class Agreement(NamedTuple):
    """The agreement of a record's changed and zeroed blocks with the folded ones."""

    changed: bool
    zeroed: bool


@dataclass(slots=True)
class RecordDigest:
    """The digest of one record, and of the commands in its range so far.

    expected_parts: how many parts the record has. parts: those that are known, by their number.
    folded, folded_zeroed: the blocks that commands changed and zeroed.
    is_judged: whether the range of the record can be folded as a whole.
    """

    span: RecordSpan
    expected_parts: int
    parts: dict[int, _PartDigest] = field(default_factory=dict)
    is_judged: bool = True
    folded: BlockSet = field(default_factory=BlockSet)
    folded_zeroed: BlockSet = field(default_factory=BlockSet)

    def add(self, record: LogRecord) -> None:
        """Add the record or one part of it. A part with the same number is replaced."""
        self.expected_parts = record.parts
        first = record.changed.min() if record.changed else 0
        self.parts[record.part] = _PartDigest(
            first, fingerprint(record.changed), fingerprint(record.zeroed)
        )

    def drop_part(self, number: int) -> None:
        """Forget one part, which the log doesn't hold any more."""
        self.parts.pop(number, None)

    def judge_from(self, first_position: int) -> None:
        """Judge the record only if it begins at `first_position`, the first one folded, or later.

        A part of the commands of any other record is gone.
        """
        self.is_judged = self.span.after + 1 >= first_position

    def fold(self, *, changed: BlockSet, zeroed: BlockSet) -> None:
        """Add the blocks of a command in the record's range."""
        self.folded |= changed
        self.folded_zeroed |= zeroed

    @property
    def is_complete(self) -> bool:
        """Return whether every part is known."""
        return len(self.parts) == self.expected_parts

    def agreement(self) -> Agreement:
        """Return whether the record says what was folded. Call it for a complete record alone."""
        parts = [self.parts[number] for number in sorted(self.parts)]
        changed = zeroed = True
        for number, part in enumerate(parts):
            start = part.first if number else 0
            end = parts[number + 1].first if number + 1 < len(parts) else None
            is_whole = len(parts) == 1
            folded = self.folded if is_whole else _within(self.folded, start, end)
            folded_zeroed = (
                self.folded_zeroed if is_whole else _within(self.folded_zeroed, start, end)
            )
            changed &= fingerprint(folded) == part.changed
            zeroed &= fingerprint(folded_zeroed) == part.zeroed
        return Agreement(changed, zeroed)


def _within(blocks: BlockSet, start: int, end: int | None) -> BlockSet:
    """Return the blocks in [start, end), for None those from `start` on."""
    mask = BlockSet()
    mask.add_range(start, (blocks.max() + 1 if blocks else start) if end is None else end)
    return blocks & mask


class RecordDigests:
    """The digests of all records of a partition."""

    def __init__(self, records: Iterable[LogRecord] = ()) -> None:
        self._digests: dict[RecordSpan, RecordDigest] = {}
        for record in records:
            self.add(record)

    def add(self, record: LogRecord) -> None:
        """Add a record or one part of it."""
        span = RecordSpan.of(record)
        self._digests.setdefault(span, RecordDigest(span, record.parts)).add(record)

    def drop(self, key: RecordKey) -> None:
        """Forget the record, or the part of one, under a key that the log doesn't hold any more."""
        if (digest := self._digests.get(RecordSpan.of(key))) is not None:
            digest.drop_part(key.part)

    def by_log(self, through: int) -> dict[str, deque[RecordDigest]]:
        """Return the complete records that end at or below `through`, by log, in position order."""
        by_log: dict[str, deque[RecordDigest]] = defaultdict(deque)
        for span, digest in sorted(self._digests.items()):
            if digest.is_complete and span.through <= through:
                by_log[span.volume].append(digest)
        return by_log
