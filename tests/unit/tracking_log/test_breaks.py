"""What shows that a position of a watermark means another command now."""

from __future__ import annotations

import pytest
from notation import GENERATION

from mirrorlog.domain.histories import History
from mirrorlog.tracking_log.breaks import CommandsNow, break_reason
from mirrorlog.tracking_log.heads import Watermark

# watermark: through, topic, anchor (- for unknown) | topic now: id, end, command there | reason
CASES = """
 9 t a | t 10 a | none
 9 t a | t 99 a | none
 9 t a | t 99 b | holds another command
 9 t a | t 99 - | none
 9 t - | t 99 b | none
 9 t a | t  9 - | ends at position 9
 9 t a | t  0 - | ends at position 0
 9 t a | u 99 a | was created again
 9 - a | u 99 a | none
 9 t a | - 99 a | none
 9 - - | u  5 - | ends at position 5
-1 t - | t  0 - | none
"""


@pytest.mark.parametrize("case", CASES.strip("\n").splitlines())
def test_the_log_and_the_commands_agree_or_the_reason_is_named(case: str) -> None:
    known, kept, expected = (part.strip() for part in case.split("|"))
    through, topic, anchor = (None if text == "-" else text for text in known.split())
    topic_now, end, anchor_now = (None if text == "-" else text for text in kept.split())
    watermark = Watermark(
        partition=0,
        through=int(through or 0),
        at_us=0,
        history=History(cluster="c", topic=topic, epoch=1, id=GENERATION),
        anchor=anchor.encode() if anchor else None,
    )
    now = CommandsNow(
        topic=topic_now,
        first_kept=0,
        end=int(end or 0),
        anchor=anchor_now.encode() if anchor_now else None,
    )
    reason = break_reason(watermark, now)
    assert (reason or "none").find(expected) >= 0, reason


def test_a_watermark_of_a_log_before_histories_is_held_against_the_end_alone() -> None:
    before = Watermark(partition=0, through=9, at_us=0)
    assert break_reason(before, CommandsNow(topic="t", first_kept=0, end=10, anchor=b"x")) is None
    assert break_reason(before, CommandsNow(topic="t", first_kept=0, end=9, anchor=None))
