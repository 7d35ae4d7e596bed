"""Heads of volumes and sessions: merging, and what proves that the log is complete."""

from __future__ import annotations

import pytest
from notation import GENERATION, OTHER_GENERATION

from mirrorlog.domain.histories import History
from mirrorlog.domain.positions import OPENED_EARLIER
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead, Watermark

# sessions as last/closed/acknowledged, B<acknowledged> for a heartbeat | topic's end | settled
SETTLED = """
                 | 5 | yes
9/-1/5           | 5 | yes
9/-1/4           | 5 | no
9/-1/-1          | 5 | no
9/10/-1          | 5 | yes
9/8/-1           | 5 | no
9/8/8            | 9 | no
9/8/3            | 9 | yes
9/10/-1 12/-1/4  | 5 | no
9/10/-1 12/-1/7  | 5 | yes
9/-1/4 B5        | 5 | yes
9/-1/4 B4        | 5 | no
9/-1/4 9/-1/4 B5 | 5 | no
"""


@pytest.mark.parametrize("case", SETTLED.strip("\n").splitlines())
def test_settled_after_needs_a_batch_of_every_open_session_closed_after_the_end(case: str) -> None:
    sessions, end, expected = (part.strip() for part in case.split("|"))
    heads, beats = [], {}
    for number, text in enumerate(sessions.split()):
        if text.startswith("B"):
            beats["0"] = int(text[1:])
            continue
        last, closed, acknowledged = (int(position) for position in text.split("/"))
        heads.append(
            SessionHead(
                str(number),
                "h",
                opened_position=0,
                last_position=last,
                closed_position=closed,
                acknowledged_position=acknowledged,
            )
        )
    assert VolumeHead("v", GENERATION, through=0, sessions=tuple(heads)).settled_after(
        int(end), beats
    ) is (expected == "yes")


def test_merging_heads_is_a_union() -> None:
    early = VolumeHead(
        "v",
        GENERATION,
        through=4,
        sessions=(
            SessionHead(
                "a",
                "h",
                opened_position=3,
                last_position=3,
                closed_position=-1,
                acknowledged_position=2,
            ),
            SessionHead("b", "h", opened_position=1, last_position=1),
        ),
    )
    late = VolumeHead(
        "v",
        GENERATION,
        through=9,
        sessions=(
            SessionHead(
                "a",
                "h",
                opened_position=8,
                last_position=8,
                closed_position=9,
                acknowledged_position=7,
            ),
        ),
    )
    for merged in (early.merged(late), late.merged(early), early.merged(late).merged(early)):
        assert merged.through == 9
        assert {head.session: head for head in merged.sessions} == {
            "a": SessionHead(
                "a",
                "h",
                opened_position=3,
                last_position=8,
                closed_position=9,
                acknowledged_position=7,
            ),
            "b": SessionHead("b", "h", opened_position=1, last_position=1),
        }


def test_of_two_histories_the_head_of_the_later_one_wins_whatever_its_position() -> None:
    old = VolumeHead("v", GENERATION, through=900, sessions=(SessionHead("a", "h"),), epoch=1)
    new = VolumeHead("v", OTHER_GENERATION, through=3, epoch=2)
    assert old.merged(new) == new.merged(old) == new


def test_watermarks_are_ordered_by_the_epoch_before_the_position() -> None:
    history = History(cluster="c", topic="t", epoch=1, id=GENERATION)
    before = Watermark(partition=0, through=900, at_us=0)
    later = Watermark(partition=0, through=3, at_us=0, history=history)
    assert max(before, later, key=lambda watermark: watermark.order) is later


# commands behind a renewal, as last/closed/acknowledged | open | settled at 5
CARRIED_OVER = """
          | open   | no
7/-1/-1   | open   | no
7/-1/6    | open   | yes
-1/8/-1   | closed | yes
7/8/-1    | closed | yes
9/8/8     | open   | yes
"""


@pytest.mark.parametrize("case", CARRIED_OVER.strip("\n").splitlines())
def test_a_session_that_was_open_stays_open_in_the_next_history_until_it_closes(case: str) -> None:
    text, state, settled = (part.strip() for part in case.split("|"))
    before = SessionHead(
        "s", "h", opened_position=3, last_position=900, acknowledged_position=899, last_sequence=9
    )
    head = before.carried_over()
    assert (head.is_open, head.last_sequence, head.opened_position) == (True, 9, OPENED_EARLIER)
    if text:
        last, closed, acknowledged = (int(position) for position in text.split("/"))
        update = SessionHead(
            "s",
            "h",
            opened_position=last,
            last_position=last,
            closed_position=closed,
            acknowledged_position=acknowledged,
        )
        head = head.merged(update)
        assert head.opened_position == OPENED_EARLIER
    assert head.is_open is (state == "open")
    volume = VolumeHead("v", GENERATION, through=0, sessions=(head,), epoch=2)
    assert volume.settled_after(5, {}) is (settled == "yes")
