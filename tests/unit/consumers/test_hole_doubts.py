"""A hole in a mirrored log is believed after as many answers as there are tiers."""

from __future__ import annotations

from mirrorlog.consumers.resync.hole_doubts import HoleDoubts
from mirrorlog.tracking_log.tiers import TIERS


def test_a_hole_is_believed_after_enough_answers() -> None:
    doubts = HoleDoubts()
    for proof in range(1, len(TIERS) + 1):
        for _ in range(3):
            assert doubts.may_close("v", proof, has_hole=True)
    assert not doubts.may_close("v", len(TIERS) + 1, has_hole=True)
    assert doubts.may_close("w", len(TIERS) + 1, has_hole=True), "each volume by itself"


def test_a_hole_that_closes_is_forgotten() -> None:
    doubts = HoleDoubts()
    for proof in range(1, 9):
        assert doubts.may_close("v", proof, has_hole=True) is True
        assert not doubts.may_close("v", proof, has_hole=False)
