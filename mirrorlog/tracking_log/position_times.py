"""Position times: when the broker appended the commands up to a position. Pure.

A record has no time but those of hosts, whose clocks aren't trusted (invariant 15). So the node
notes each minute when the broker appended the command at the log's end: every command through that
position was appended then or before, and a record that ends there is at least as old.

A note is a Watermark, whose `at_us` is the broker's time. Notes of a node before this rule have the
node's time, at which the log was complete through the position; that is later. Notes are always
passed in the order of time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import Watermark

NOTE_EVERY_S: Final = 60
_KEPT: Final = ((6 * 3600, NOTE_EVERY_S), (8 * 86_400, 3600))
"""(age in seconds, width in seconds): of notes younger than the age one is kept in each width."""
_WIDTH_OF_OLDER_S: Final = 86_400


def consistent_times(times: Sequence[Watermark], *, complete_through: int) -> list[Watermark]:
    """Return the notes in the order of time, without those that contradict a later one.

    times: in any order. complete_through: the watermark of the log.
    A note above a later note or above the watermark is of a commands topic that was deleted and
    created again: positions meant something else then, and nothing is deleted by such a note.
    """
    kept: list[Watermark] = []
    lowest = complete_through
    for time in sorted(times, key=lambda time: time.at_us, reverse=True):
        if time.through <= lowest:
            kept.append(time)
            lowest = time.through
    return kept[::-1]


def position_at(times: Sequence[Watermark], at_us: float) -> int:
    """Return a position so that records through it are at least as old as the time `at_us`."""
    number = bisect_right(times, at_us, key=lambda time: time.at_us)
    return times[number - 1].through if number else BEFORE_FIRST


def position_behind(times: Sequence[Watermark], at_us: float) -> int | None:
    """Return a position above which everything was appended after the time; None: none is known."""
    number = bisect_right(times, at_us, key=lambda time: time.at_us)
    return times[number].through if number < len(times) else None


def times_to_prune(times: Sequence[Watermark], now_us: int) -> list[Watermark]:
    """Return the notes that may be deleted: the older notes are, the fewer are kept.

    The first note of each stretch of time is kept, and the newest of all. Without the others
    records appear younger, never older.
    """
    kept_slots: set[tuple[int, int]] = set()
    prune = []
    for time in times[:-1]:
        age_s = (now_us - time.at_us) / 1e6
        width_s = next(
            (width_s for below_age_s, width_s in _KEPT if age_s < below_age_s), _WIDTH_OF_OLDER_S
        )
        slot = (width_s, time.at_us // (width_s * 1_000_000))
        if slot in kept_slots:
            prune.append(time)
        kept_slots.add(slot)
    return prune
