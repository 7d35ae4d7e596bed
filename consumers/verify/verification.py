"""Which ranges are equal, which differ, and which must be hashed again: pure decisions.

A range goes through these states:

    to do       take_ranges() hands it out; both sides are asked for its digest
    in flight   compare() gets the digests, or give_back() says that there are none now
    equal       confirmed, whatever the log says: both sides held the same
    unproved    the digests differ. judge() waits until the log is settled behind the reads
        the log names a block of it as changed     to do again, in blocks, after a pause
        the log names none, and it is many blocks  to do again, in blocks
        the log names none, and it is one block    DIFFERENT
        too long unproved                          skipped, with the reason

Why that is right (docs/decisions/verification.md has the proof):

- P is the position that the site had saved as applied before it read the secondary. The commands
  topic ended at A before both sides were asked, and at E after both had answered.
- A block that no command in (min(P, A - 1), W] names didn't change between the site's last copy of
  it and the reads, if the log is settled at W for E: whatever was written before E is named by W.
- So the two sides must be equal in it. The log is asked for all blocks that it names, so a cycle
  that ran during the reads is covered, too: it writes to no block that the log doesn't name.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, Protocol

from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.domain.verifications import DIGEST_BYTES, MAX_NAMED, MAX_RANGES, ByteRange

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_MAX_TO_DO: Final = 1 << 16
"""While so many ranges wait to be hashed again, no further part of the volume is begun."""


class LogFacts(Protocol):
    """What the log says now of the volume, and of the site's secondary."""

    @property
    def has_open_fork(self) -> bool:
        """Whether a host doesn't know the outcome of one of its own writes to the secondary."""

    def is_settled(self, end_position: int) -> bool:
        """Return whether the log names all that was written before the commands ended there."""

    def changed_after(self, position: int) -> BlockSet | None:
        """Return the blocks that the log names behind a position; None if it can't be proved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestPair:
    """The digests of both sides for the same ranges, and what bounds the time of the reads.

    primary, secondary: DIGEST_BYTES for each range.
    applied_position: that the site had saved before it read the secondary (P).
    end_before, end_after: where the commands topic ended before both sides were asked (A), and
        after both had answered (E).
    had_open_fork: the outcome of a host's own write to the secondary wasn't known at A.
    """

    primary: bytes
    secondary: bytes
    applied_position: int
    end_before: int
    end_after: int
    had_open_fork: bool = False


@dataclass(slots=True)
class _Work:
    """A range that isn't judged yet.

    attempts: how often it differed. since_s: when it differed first. needs_position: it counts
    only if the secondary has applied the log up to there (a repair). reason: why the last attempt
    decided nothing.
    """

    range: ByteRange
    attempts: int = 0
    since_s: float | None = None
    needs_position: int | None = None
    reason: str = "the log doesn't name all that its hosts wrote before it was hashed"


@dataclass(frozen=True, slots=True)
class _Unproved:
    """Ranges that differed, and the positions between which the log must be asked."""

    works: Sequence[_Work]
    after: int
    end_after: int
    had_open_fork: bool


@dataclass(slots=True)
class Findings:
    """What is known so far. different: blocks. skipped: ranges, by offset."""

    confirmed_bytes: int = 0
    hashed_again: int = 0
    different: BlockSet = field(default_factory=BlockSet)
    skipped: dict[int, ByteRange] = field(default_factory=dict)
    skip_reason: str | None = None
    repaired_blocks: int = 0

    @property
    def skipped_bytes(self) -> int:
        """The bytes that could not be judged."""
        return sum(extent.length for extent in self.skipped.values())


class Verification:
    """The ranges of one volume, from the first one to the last.

    start: the offset at which it begins; `again` is done beside that, from an earlier run.
    patience_s: a range that is unproved for longer is skipped. Times are of the monotonic clock.
    """

    def __init__(
        self,
        *,
        size_bytes: int,
        block_size: int,
        range_bytes: int,
        patience_s: float,
        start: int = 0,
        again: Iterable[ByteRange] = (),
    ) -> None:
        self.size_bytes: Final = size_bytes
        self.range_bytes: Final = max(range_bytes // block_size, 1) * block_size
        self.findings: Final = Findings()
        self._block_size: Final = block_size
        self._patience_s: Final = patience_s
        self._reached = start
        self._numbers = count()
        self._to_do: list[tuple[float, int, _Work]] = []
        self._in_flight: dict[ByteRange, _Work] = {}
        self._unproved: list[_Unproved] = []
        again = list(again)
        self.findings.confirmed_bytes = start - sum(work.length for work in again)
        for work in again:
            self._push(map(_Work, _cut(work, self.range_bytes)), float("-inf"))

    @property
    def is_over(self) -> bool:
        """Return whether each range is confirmed, different or skipped."""
        at_end = self._reached >= self.size_bytes
        return at_end and not self._to_do and not self._in_flight and not self._unproved

    def take_ranges(self, now_s: float, most_bytes: int) -> list[ByteRange]:
        """Return ranges that are to be hashed now: at least one if any is due.

        They are in flight until compare() or give_back() is called with them.
        """
        taken: list[ByteRange] = []
        size_bytes = 0
        for work in self._due(now_s):
            if taken and (size_bytes + work.range.length > most_bytes or len(taken) == MAX_RANGES):
                self._push([work], now_s)
                break
            self._in_flight[work.range] = work
            taken.append(work.range)
            size_bytes += work.range.length
        return taken

    def _due(self, now_s: float) -> Iterator[_Work]:
        """Yield, and take, what is to be done now: first what is to be hashed again."""
        while self._to_do and self._to_do[0][0] <= now_s:
            yield heapq.heappop(self._to_do)[2]
        while self._reached < self.size_bytes and len(self._to_do) < _MAX_TO_DO:
            length = min(self.range_bytes, self.size_bytes - self._reached)
            fresh = _Work(ByteRange(self._reached, length))
            self._reached += length
            yield fresh

    def give_back(self, ranges: Sequence[ByteRange], now_s: float) -> None:
        """Take back ranges whose digests didn't come. They are handed out again after a pause."""
        self._push([self._in_flight.pop(extent) for extent in ranges], now_s + _FIRST_PAUSE_S)

    def compare(self, ranges: Sequence[ByteRange], pair: DigestPair, now_s: float) -> None:
        """Compare the digests of ranges that are in flight."""
        differing: list[_Work] = []
        for index, extent in enumerate(ranges):
            work = self._in_flight.pop(extent)
            if work.needs_position is not None and pair.applied_position < work.needs_position:
                self._hash_again(work, now_s, "the site hasn't copied it since it was marked dirty")
                continue
            at = slice(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES)
            if pair.primary[at] == pair.secondary[at]:
                self._confirm(work)
            else:
                work.since_s = now_s if work.since_s is None else work.since_s
                differing.append(work)
        if differing:
            after = min(pair.applied_position, pair.end_before - 1)
            self._unproved.append(_Unproved(differing, after, pair.end_after, pair.had_open_fork))

    def judge(self, facts: LogFacts, now_s: float) -> None:
        """Decide about the ranges that differ, as far as the log allows it by now."""
        unproved, self._unproved = self._unproved, []
        for asked in unproved:
            if not facts.is_settled(asked.end_after):
                self._wait_or_skip(asked, now_s)
                continue
            changed = facts.changed_after(asked.after)
            is_fork_open = asked.had_open_fork or facts.has_open_fork
            for work in asked.works:
                if changed is None:
                    self._hash_again(work, now_s, "the log doesn't reach back that far")
                elif is_fork_open:
                    self._hash_again(work, now_s, "a host doesn't know the outcome of its writes")
                elif self._is_named(changed, work.range):
                    self._hash_again(work, now_s, "it changed during each attempt")
                elif work.range.length > self._block_size:
                    self._push(self._in_blocks(work), now_s)
                elif work.needs_position is None:
                    self.findings.different.add(work.range.offset // self._block_size)

    def recheck(self, position: int, now_s: float) -> None:
        """Hash the different blocks again, once the secondary has applied the log to `position`."""
        blocks = self.findings.different
        works = [_Work(self._block(block), 0, now_s, position) for block in blocks]
        self._push(works, now_s + _FIRST_PAUSE_S)

    def unfinished(self) -> list[ByteRange]:
        """Return the ranges that were begun and aren't judged, by offset."""
        works = [work for _, _, work in self._to_do]
        works += self._in_flight.values()
        works += [work for asked in self._unproved for work in asked.works]
        return sorted(work.range for work in works if work.needs_position is None)

    def different_ranges(self) -> list[ByteRange]:
        """Return the different blocks as ranges, by offset."""
        size = self._block_size
        return [
            ByteRange(first * size, min((first + length) * size, self.size_bytes) - first * size)
            for first, length in runs(self.findings.different)
        ]

    def reached(self, *lists: Sequence[ByteRange]) -> int:
        """Return the offset below which all is confirmed or in the first MAX_NAMED of a list."""
        beyond = [listed[MAX_NAMED].offset for listed in lists if len(listed) > MAX_NAMED]
        return min([self._reached, *beyond])

    def _push(self, works: Iterable[_Work], due_s: float) -> None:
        for work in works:
            heapq.heappush(self._to_do, (due_s, next(self._numbers), work))

    def _confirm(self, work: _Work) -> None:
        if work.needs_position is None:
            self.findings.confirmed_bytes += work.range.length
        else:
            self.findings.repaired_blocks += 1

    def _hash_again(self, work: _Work, now_s: float, reason: str) -> None:
        """Do a range again after a pause, the second time in blocks; or skip it."""
        work.since_s = now_s if work.since_s is None else work.since_s
        work.reason = reason
        if now_s - work.since_s > self._patience_s:
            self._skip(work)
            return
        self.findings.hashed_again += 1
        work.attempts += 1
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(work.attempts, 10), _LONGEST_PAUSE_S)
        self._push(self._in_blocks(work), now_s + pause_s)

    def _wait_or_skip(self, unproved: _Unproved, now_s: float) -> None:
        late = [w for w in unproved.works if now_s - (w.since_s or now_s) > self._patience_s]
        rest = [work for work in unproved.works if work not in late]
        for work in late:
            self._skip(work)
        if rest:
            self._unproved.append(
                _Unproved(rest, unproved.after, unproved.end_after, unproved.had_open_fork)
            )

    def _skip(self, work: _Work) -> None:
        if work.needs_position is None:
            self.findings.skipped[work.range.offset] = work.range
            self.findings.skip_reason = work.reason

    def _in_blocks(self, work: _Work) -> list[_Work]:
        first, end = work.range.offset // self._block_size, self._end_block(work.range)
        return [replace(work, range=self._block(block)) for block in range(first, end)]

    def _block(self, number: int) -> ByteRange:
        offset = number * self._block_size
        return ByteRange(offset, min(self._block_size, self.size_bytes - offset))

    def _end_block(self, extent: ByteRange) -> int:
        return -(-extent.end // self._block_size)

    def _is_named(self, changed: BlockSet, extent: ByteRange) -> bool:
        first = extent.offset // self._block_size
        return changed.range_cardinality(first, self._end_block(extent)) > 0


def _cut(extent: ByteRange, most_bytes: int) -> Iterator[ByteRange]:
    """Yield the pieces of a range, of at most `most_bytes` bytes."""
    for offset in range(extent.offset, extent.end, most_bytes):
        yield ByteRange(offset, min(most_bytes, extent.end - offset))
