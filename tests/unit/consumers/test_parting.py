"""What a secondary is worth when it is promoted, and when another copy is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, OTHER_GENERATION, promotion, record, volume

from mirrorlog.consumers.failover.claims import claim_of
from mirrorlog.consumers.failover.lost_writes import lost_writes
from mirrorlog.consumers.resync.parting import continued_state, unknown_parting
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volume_states import apply
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import ForkHead, VolumeHead
from mirrorlog.tracking_log.site_log import SiteLog

PROMOTED = apply(volume(), promotion(parted_position=20), 30)


def number(text: str) -> int | None:
    return None if text == "-" else int(text)


def state(text: str) -> SecondaryState:
    """Return a state in notation: `applied suspect_after cycle_through consistent rung`."""
    applied, suspect, cycle, consistent, rung = text.split()
    return SecondaryState(
        "v",
        GENERATION,
        applied_position=number(applied),
        suspect_after=number(suspect),
        cycle_through=number(cycle),
        consistent_position=number(consistent),
        rung=Rung(rung),
    )


def site_log(fork: ForkHead | None = None, *records: str) -> SiteLog:
    log = VolumeLog()
    head = VolumeHead("v", GENERATION, through=25, forks={} if fork is None else {"b": fork})
    log.add_head(head)
    for text in records:
        span, _, blocks = text.partition(" ")
        log.add(record(span, blocks))
    return SiteLog(log, VolumeLog(), "b")


# saved: applied, suspect_after, cycle_through, consistent, rung | consistent at | parted behind
CLAIMS = """
10 -  -  10 changed   | 10 | 10
10 -  -  10 full      | 10 | 10
10 7  -  -  changed   | -  | 7
10 -  15 -  changed   | -  | 10
10 7  15 -  changed   | -  | 7
10 10 -  -  allocated | -  | -
-  -  15 -  allocated | -  | -
"""


@pytest.mark.parametrize("case", CLAIMS.strip().splitlines())
def test_what_a_secondary_is_worth_to_a_promoter(case: str) -> None:
    saved, consistent, parted = (part.strip() for part in case.split("|"))
    claim = claim_of(state(saved), volume(), site_log())
    assert (claim.consistent_position, claim.parted_position) == (
        number(consistent),
        number(parted),
    )
    assert (claim.reason is None) is (consistent != "-")


def test_nothing_is_claimed_of_what_may_be_another_secondary() -> None:
    saved = state("10 - - 10 changed")
    for claim in (
        claim_of(None, volume(), site_log()),
        claim_of(saved, volume(), site_log(), doubt="the mark is gone"),
        claim_of(saved, volume(generation=OTHER_GENERATION), site_log()),
        claim_of(
            replace(saved, history_id=GENERATION), volume(history_id=OTHER_GENERATION), site_log()
        ),
    ):
        assert (claim.consistent_position, claim.parted_position) == (None, None)
        assert claim.reason


def test_a_forked_secondary_is_consistent_only_if_it_missed_nothing_since() -> None:
    saved = state("10 - - 10 changed")
    healthy = claim_of(saved, volume(), site_log(ForkHead(5, 5)))
    assert (healthy.consistent_position, healthy.parted_position) == (10, None)
    # Before the fork began, it missed what changed.
    behind = claim_of(saved, volume(), site_log(ForkHead(25, 25), "10..25 3"))
    assert behind.consistent_position is None


# saved of the generation that ended; the copies parted behind 20 | state that follows
CONTINUED = """
10 -  -  10 changed   | 10 -  -  10
20 -  -  20 changed   | 20 -  -  20
25 -  -  25 changed   | 20 -  25 -
25 15 -  -  changed   | 15 -  25 -
25 22 -  -  changed   | 20 -  25 -
10 -  15 -  changed   | 10 -  15 -
25 -  40 -  changed   | 20 -  40 -
25 25 -  -  allocated | nothing
25 -  -  25 allocated | 20 -  25 -
-  -  15 -  allocated | nothing
"""


@pytest.mark.parametrize("case", CONTINUED.strip().splitlines())
def test_what_a_secondary_knows_when_another_copy_is_promoted(case: str) -> None:
    saved, expected = (part.strip() for part in case.split("|"))
    continued = continued_state(state(saved), PROMOTED, is_forked=False)
    if expected == "nothing":
        assert continued is None
        return
    assert continued is not None and continued.generation == OTHER_GENERATION
    assert [
        continued.applied_position,
        continued.suspect_after,
        continued.cycle_through,
        continued.consistent_position,
    ] == [number(word) for word in expected.split()]


def test_a_forked_secondary_and_an_unknown_promotion_continue_nothing() -> None:
    saved = state("10 - - 10 changed")
    assert continued_state(saved, PROMOTED, is_forked=True) is None
    unknown = apply(volume(), promotion(parted_position=None), 30)
    assert continued_state(saved, unknown, is_forked=False) is None
    assert (
        continued_state(replace(saved, generation=OTHER_GENERATION), PROMOTED, is_forked=False)
        is None
    )


def test_what_is_lost_is_rounded_outwards_and_a_hole_is_said() -> None:
    log = site_log(None, "5..12 1-2", "12..20 2-3 9", "20..25 40").volume
    lost = lost_writes(volume(), log, after=10, through=20)
    assert list(lost.blocks) == [1, 2, 3, 9]
    assert (lost.size_bytes, lost.hosts, lost.first_at_us) == (4 * 4096, ("h",), 1)
    assert lost.is_complete
    assert not lost_writes(volume(), log, after=2, through=20).is_complete
    nothing = lost_writes(volume(), log, after=25, through=25)
    assert not nothing.blocks and nothing.is_complete and nothing.first_at_us is None


def test_why_everything_is_copied_is_said() -> None:
    known, unknown = state("10 - - 10 changed"), apply(volume(), promotion(), 30)
    unknown = replace(unknown, promotions=(replace(unknown.promotions[0], parted_position=None),))
    assert continued_state(known, unknown, is_forked=False) is None
    assert "the copy of site b was promoted before" in unknown_parting(
        known, unknown, is_forked=False
    )
    assert continued_state(known, PROMOTED, is_forked=True) is None
    assert "hosts forked writes to this secondary" in unknown_parting(
        known, PROMOTED, is_forked=True
    )
    unproved = state("10 10 - - allocated")
    assert continued_state(unproved, PROMOTED, is_forked=False) is None
    assert "own copy of everything" in unknown_parting(unproved, PROMOTED, is_forked=False)
