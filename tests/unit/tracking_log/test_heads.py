"""Heads of volumes and sessions: merging, and what proves that the log is complete."""

from __future__ import annotations

import pytest
from notation import GENERATION

from mirrorlog.tracking_log.heads import SessionHead, VolumeHead

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
