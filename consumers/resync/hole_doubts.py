"""HoleDoubts: whether a hole in a mirrored log is one in the log of the source. Pure.

Compaction may take a record before the mirror reads it. Its roll-up lies before the end that the
log had then, so it arrives before the answer to a question that is put after the hole was read. But
the roll-up may be gone for the same reason, with one of a higher tier in its place. A hole that is
there for as many answers in a row as there are tiers is in the log itself.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mirrorlog.tracking_log.tiers import TIERS


class _Doubt(NamedTuple):
    """The last answer with which a hole was seen, and how many there were before it."""

    proof: int
    earlier: int


class HoleDoubts:
    """Remembers, by volume, with how many answers in a row a hole was seen."""

    def __init__(self) -> None:
        self._doubts: Final[dict[str, _Doubt]] = {}

    def may_close(self, volume: str, proof: int, *, has_hole: bool) -> bool:
        """Return whether the volume's hole may close.

        proof: the number of the question whose answer proved the log last.
        """
        if not has_hole:
            self._doubts.pop(volume, None)
            return False
        doubt = self._doubts.setdefault(volume, _Doubt(proof, 0))
        if proof != doubt.proof:
            doubt = self._doubts[volume] = _Doubt(proof, doubt.earlier + 1)
        return doubt.earlier < len(TIERS)
