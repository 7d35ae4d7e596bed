"""Publication delays: how long after their writes the commands of a range were appended. Pure.

A write is made by a host's clock, and the broker appends its command later, by its own clock. A
question about a time looks for writes on the other side of it: made before the time and appended
after it, or the other way round if a host's clock is ahead. With the longest and the shortest delay
of a range, only commands that were appended near the time can hold such a write. Without them, all
commands of a log record may.

Each statement is about the commands of all volumes of a partition, and true by itself. Any of them
may be missing, or be there twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, NamedTuple

_S: Final = 1_000_000
_KEPT: Final = ((6 * 3600, 60), (35 * 86_400, 3600))
"""(age in seconds, width in seconds): a statement younger than the age is about so much time."""
_WIDTH_OF_OLDER_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationDelays:
    """The delays of the commands in `(after, through]` of a partition.

    history_id: of the history in which the positions were taken.
    first_appended_us, last_appended_us: when the broker appended the first and the last command, in
    microseconds since 1970, rounded down to its milliseconds. From one command to the next this
    time never goes back in the range.
    longest_us: the longest time from a command's first write, by its host's clock, to its appending
    by the broker's. shortest_us: the shortest time from a command's last write; it is negative if a
    host's clock is ahead. Both are of commands that change a block; None if the range has none.
    """

    partition: int
    history_id: str
    after: int
    through: int
    first_appended_us: int
    last_appended_us: int
    longest_us: int | None
    shortest_us: int | None

    def joined(self, later: PublicationDelays) -> PublicationDelays | None:
        """Return the delays of this range and of `later`, which follows it.

        Return None if a command may lie between them, or if the broker's time went back.
        """
        same = (self.partition, self.history_id) == (later.partition, later.history_id)
        follows = later.after == self.through
        if not (same and follows and self.last_appended_us <= later.first_appended_us):
            return None
        return replace(
            self,
            through=later.through,
            last_appended_us=later.last_appended_us,
            longest_us=_extreme(max, self.longest_us, later.longest_us),
            shortest_us=_extreme(min, self.shortest_us, later.shortest_us),
        )


def _extreme(
    choose: Callable[[Iterable[int]], int], one: int | None, other: int | None
) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return choose(known) if known else None


class JoinedDelays(NamedTuple):
    """A statement that takes the place of `parts`. Its key is that of the first of them."""

    whole: PublicationDelays
    parts: tuple[PublicationDelays, ...]


def delays_to_join(delays: Sequence[PublicationDelays], now_us: int) -> list[JoinedDelays]:
    """Return which statements become one: the older they are, the wider.

    delays: of one partition, in the order of positions. now_us: by the broker's clock.
    """
    joins = []
    for _, group in groupby(delays, key=lambda part: _slot(part, now_us)):
        parts: list[PublicationDelays] = []
        whole: PublicationDelays | None = None
        for part in group:
            wider = None if whole is None else whole.joined(part)
            if wider is None:
                if whole is not None and len(parts) > 1:
                    joins.append(JoinedDelays(whole, tuple(parts)))
                parts, whole = [part], part
            else:
                parts.append(part)
                whole = wider
        if whole is not None and len(parts) > 1:
            joins.append(JoinedDelays(whole, tuple(parts)))
    return joins


def _slot(delays: PublicationDelays, now_us: int) -> tuple[int, int]:
    """Return the stretch of time that one statement may be about, by its age."""
    age_s = (now_us - delays.first_appended_us) / _S
    width_s = next(
        (width_s for below_age_s, width_s in _KEPT if age_s < below_age_s), _WIDTH_OF_OLDER_S
    )
    return width_s, delays.first_appended_us // (width_s * _S)


class SearchRange(NamedTuple):
    """The positions `(after, through]`, in which a command may lie that is looked for."""

    after: int
    through: int


def late_search(
    delays: Iterable[PublicationDelays],
    at_us: int,
    appended_through: Callable[[int], int | None],
    *,
    after: int,
    through: int,
) -> list[SearchRange]:
    """Return where in `(after, through]` commands may lie with a write at the time or before.

    appended_through: returns, for a time, the position before the first command that was appended
    later; None if it isn't known. The ranges are ascending and apart.
    """
    excluded = []
    for part in _overlapping(delays, after=after, through=through):
        if part.longest_us is None:
            excluded.append((part.after, part.through))
            continue
        # What was appended later than that was written after the time.
        limit_us = at_us + part.longest_us
        if part.first_appended_us > limit_us:
            excluded.append((part.after, part.through))
        elif part.last_appended_us > limit_us:
            last = appended_through(limit_us)
            # A position below the range: the broker's time went back before it, and says nothing.
            if last is not None and last > part.after:
                excluded.append((last, part.through))
    return _left(after, through, excluded)


def early_search(
    delays: Iterable[PublicationDelays],
    at_us: int,
    appended_before: Callable[[int], int],
    *,
    after: int,
    through: int,
) -> list[SearchRange]:
    """Return where in `(after, through]` commands may lie with a write after the time.

    appended_before: returns, for a time, a position through which every command was appended
    before. The ranges are ascending and apart.
    """
    excluded = []
    for part in _overlapping(delays, after=after, through=through):
        if part.shortest_us is None:
            excluded.append((part.after, part.through))
            continue
        # What was appended then or before was written at the time asked for or before.
        limit_us = at_us + part.shortest_us
        if part.last_appended_us <= limit_us:
            excluded.append((part.after, part.through))
        elif part.first_appended_us < limit_us:
            excluded.append((part.after, min(appended_before(limit_us), part.through)))
    return _left(after, through, excluded)


def _overlapping(
    delays: Iterable[PublicationDelays], *, after: int, through: int
) -> Iterator[PublicationDelays]:
    return (part for part in delays if part.after < through and after < part.through)


def _left(after: int, through: int, excluded: Iterable[tuple[int, int]]) -> list[SearchRange]:
    """Return what of `(after, through]` is in none of the ranges `excluded`."""
    left, reached = list[SearchRange](), after
    for start, end in sorted(excluded):
        if start > reached:
            left.append(SearchRange(reached, min(start, through)))
        reached = max(reached, end)
        if reached >= through:
            return left
    left.append(SearchRange(reached, through))
    return left
