"""How the members of a group are copied, by what is known of all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import volume

from mirrorlog.consumers.resync.cycle_steps import Idle, Resync
from mirrorlog.consumers.resync.group_step import (
    GroupMode,
    GroupRule,
    MemberView,
    common_point,
    group_rule,
    keeps_point,
    member_step,
)
from mirrorlog.consumers.resync.staging_step import InPlace, StageBlocks
from mirrorlog.consumers.state.secondary_state import CommonPoint, SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteState

GENERATION, POINT, OTHER = (f"0000000{digit}-0000-4000-8000-000000000000" for digit in "123")


def state(name: str, point: str | None = POINT) -> SecondaryState:
    return SecondaryState(
        name,
        GENERATION,
        applied_position=9,
        consistent_position=9,
        common_point=None if point is None else CommonPoint(point, 9),
    )


def member(name: str, point: str | None = POINT, **facts: object) -> MemberView:
    described = volume(name, generation=GENERATION, group="db")
    view = MemberView(volume=described, saved=state(name, point), is_here=True)
    return replace(view, **facts)  # type: ignore[arg-type]


DATA = member("data")
SYNCING = replace(state("wal"), consistent_position=None, cycle_through=12, rung=Rung.CHANGED)


def rule(*members: MemberView, has_journals: bool = True, refusal: str | None = None) -> GroupRule:
    return group_rule("db", members, has_journals=has_journals, refusal=refusal)


def test_members_of_which_nothing_is_missing_move_together() -> None:
    assert rule(DATA, member("wal")) == GroupRule(GroupMode.TOGETHER)
    assert rule(DATA, member("wal", OTHER)) == GroupRule(GroupMode.TOGETHER)
    assert rule(DATA, member("wal", None)) == GroupRule(GroupMode.TOGETHER)


@pytest.mark.parametrize(
    ("wal", "reason"),
    [
        (member("wal", is_met=False), "the secondary of wal can't be used now"),
        (member("wal", is_paused=True), "volume wal is paused"),
        (member("wal", is_forked=True), "hosts write to the secondary of wal themselves"),
        (member("wal", is_promoted_here=True), "the secondary of wal was promoted"),
        (member("wal", volume=replace(DATA.volume, volume="wal", shared=True)), "wal is shared"),
    ],
)
def test_a_group_stays_at_its_point_while_something_is_missing(
    wal: MemberView, reason: str
) -> None:
    stays = rule(DATA, wal)
    assert stays.mode is GroupMode.STAYS
    assert stays.reason is not None and reason in stays.reason


@pytest.mark.parametrize(
    "wal",
    [
        member("wal", is_here=False, saved=None),
        member("wal", saved=SYNCING),
        member("wal", OTHER, is_met=False),
        member("wal", None, is_met=False),
    ],
)
def test_members_without_a_common_point_are_copied_apart(wal: MemberView) -> None:
    assert rule(DATA, wal).mode is GroupMode.APART


def test_without_journals_nothing_is_kept() -> None:
    assert rule(DATA, member("wal"), has_journals=False).mode is GroupMode.APART


def test_refused_snapshots_keep_a_point_and_keep_no_other_back() -> None:
    assert rule(DATA, member("wal"), refusal="no host").mode is GroupMode.STAYS
    assert rule(DATA, member("wal", OTHER), refusal="no host").mode is GroupMode.APART


def test_a_promoted_member_keeps_the_others_at_its_point() -> None:
    promoted = member("wal", None, is_promoted_here=True)
    assert keeps_point([DATA, promoted])
    assert common_point([DATA, promoted]) is None
    assert rule(DATA, promoted).mode is GroupMode.STAYS
    assert not keeps_point([promoted])


STEP = Resync(Rung.CHANGED, SYNCING, SYNCING, BlockSet(), None)
STAGE = StageBlocks(STEP, is_new=True)


@pytest.mark.parametrize("mode", list(GroupMode))
def test_only_steps_of_a_journal_wait_for_the_group(mode: GroupMode) -> None:
    reason = None if mode is GroupMode.TOGETHER else "why"
    for other in (STEP, InPlace(STEP, "too large"), Idle(SiteState.SETTLING)):
        assert member_step(GroupRule(mode, reason), state("data"), other) is other
    step = member_step(GroupRule(mode, reason), state("data"), STAGE)
    if mode is GroupMode.APART:
        assert step is STAGE
    else:
        assert isinstance(step, Idle) and step.state is SiteState.CONSISTENT


def test_a_member_without_a_point_doesnt_stay() -> None:
    stays = GroupRule(GroupMode.STAYS, "why")
    assert member_step(stays, state("data", None), STAGE) is STAGE
