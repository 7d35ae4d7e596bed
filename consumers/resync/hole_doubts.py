"""HoleDoubts: whether a hole in a mirrored log is one in the log of the source. Pure.

Compaction may take a record before the mirror reads it. Its roll-up lies before the end that the
log had then, so it arrives before the answer to a question that is put after the hole was read. But
the roll-up may be gone for the same reason, with one of a higher tier in its place. A hole that is
there for as many such answers, one after the other, as there are tiers is in the log itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from mirrorlog.tracking_log.tiers import TIERS


class _Doubt(NamedTuple):
    """A hole that may close.

    question: the number of a question that was put after the hole was last looked at. earlier: how
    many such questions were answered before, with the hole still there.
    """

    question: int
    earlier: int


class HoleDoubts:
    """Remembers the holes by volume, and with how many answers one after the other each was seen.

    ask: puts a question about a partition, soon; returns its number.
    """

    def __init__(self, ask: Callable[[int], int]) -> None:
        self._ask: Final = ask
        self._doubts: Final[dict[str, _Doubt]] = {}

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self._doubts.pop(volume, None)

    def may_close(self, volume: str, partition: int, proof: int, *, has_hole: bool) -> bool:
        """Return whether the volume's hole may close.

        proof: the number of the question whose answer proved the partition's log last.
        """
        if not has_hole:
            self._doubts.pop(volume, None)
            return False
        doubt = self._doubts.get(volume)
        if doubt is None:
            doubt = self._doubts[volume] = _Doubt(self._ask(partition), 0)
        elif proof >= doubt.question and doubt.earlier < len(TIERS):
            doubt = self._doubts[volume] = _Doubt(self._ask(partition), doubt.earlier + 1)
        return doubt.earlier < len(TIERS)
