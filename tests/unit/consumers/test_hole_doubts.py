"""A hole in a mirrored log is believed after as many answers as there are tiers."""

from __future__ import annotations

from mirrorlog.consumers.resync.hole_doubts import HoleDoubts
from mirrorlog.tracking_log.tiers import TIERS


class Source:
    """Answers questions when it is told to. proof: the number of the last one that it answered."""

    def __init__(self) -> None:
        self.asked = self.proof = 0
        self.doubts = HoleDoubts(self.ask)

    def ask(self, partition: int) -> int:
        self.asked += 1
        return self.asked

    def may_close(self, volume: str = "v", *, has_hole: bool = True) -> bool:
        return self.doubts.may_close(volume, 0, self.proof, has_hole=has_hole)


def test_a_hole_is_believed_after_enough_answers() -> None:
    source = Source()
    for _ in TIERS:
        for _ in range(3):
            assert source.may_close()
        source.proof = source.asked
    assert not source.may_close()
    assert source.may_close("w"), "each volume by itself"


def test_answers_to_questions_from_before_the_hole_was_seen_dont_count() -> None:
    source = Source()
    source.asked = 9  # they are on their way
    for source.proof in range(10):
        assert source.may_close()
    assert source.asked == 10


def test_a_hole_that_closes_is_forgotten() -> None:
    source = Source()
    for _ in range(9):
        assert source.may_close()
        source.proof = source.asked
        assert not source.may_close(has_hole=False)
