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
        heads.append(SessionHead(str(number), "h", 0, last, closed, acknowledged))
    assert VolumeHead("v", GENERATION, 0, tuple(heads)).settled_after(int(end), beats) is (
        expected == "yes"
    )


def test_merging_heads_is_a_union() -> None:
    early = VolumeHead(
        "v", GENERATION, 4, (SessionHead("a", "h", 3, 3, -1, 2), SessionHead("b", "h", 1, 1))
    )
    late = VolumeHead("v", GENERATION, 9, (SessionHead("a", "h", 8, 8, 9, 7),))
    for merged in (early.merged(late), late.merged(early), early.merged(late).merged(early)):
        assert merged.through == 9
        assert {head.session: head for head in merged.sessions} == {
            "a": SessionHead("a", "h", 3, 8, 9, 7),
            "b": SessionHead("b", "h", 1, 1),
        }
