"""The promotion of a group is planned for all members before one of them is promoted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import record, volume

from mirrorlog.consumers.failover.claims import SecondaryClaim
from mirrorlog.consumers.failover.group_promotion import (
    GroupPromotion,
    PlannedPromotion,
    PromotionCutOff,
    promote_all,
)
from mirrorlog.consumers.failover.lost_writes import LostWrites, lost_writes
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed, MirrorlogError
from mirrorlog.tracking_log.coverage import VolumeLog

WELL = SecondaryClaim(consistent_position=4, parted_position=4, reason=None)
CUT = SecondaryClaim(consistent_position=None, parted_position=4, reason="a cycle was cut off")


def lost(through: int, blocks: str = "") -> LostWrites:
    """What is written after position 4. Without blocks, nothing is recorded of it."""
    log = VolumeLog()
    if blocks:
        log.add(record(f"4..{through}", blocks))
    return lost_writes(volume(), log, after=4, through=through)


def member(name: str, point: str | None = "p", **fields: object) -> PlannedPromotion:
    planned = PlannedPromotion(
        volume=volume(name, group="db"),
        point_id=point,
        claim=WELL,
        lost=lost(4),
    )
    return replace(planned, **fields)  # type: ignore[arg-type]


def promoted(name: str, point: str | None = "p", *, is_finished: bool = False) -> PlannedPromotion:
    return member(name, point, claim=None, lost=None, is_finished=is_finished)


def plan(*members: PlannedPromotion) -> GroupPromotion:
    return GroupPromotion("b", members)


class Steps:
    """Notes what is done. refused: the errors of promotions that aren't recorded, by name."""

    def __init__(self, **refused: MirrorlogError) -> None:
        self.refused, self.done = refused, list[str]()

    def publish(self, member: PlannedPromotion) -> Volume:
        name = member.volume.volume
        if name in self.refused:
            raise self.refused[name]
        self.done.append(f"publish {name}")
        return replace(member.volume, primary_site="b")

    def finish(self, member: PlannedPromotion, volume: Volume) -> None:
        assert member.is_promoted or volume.primary_site == "b"
        self.done.append(f"finish {volume.volume}")


def test_all_are_published_before_one_is_finished() -> None:
    steps = Steps()
    promote_all(plan(member("data"), member("wal")), steps)
    assert steps.done == ["publish data", "publish wal", "finish data", "finish wal"]


def test_a_run_that_died_is_finished_by_the_next_one() -> None:
    steps = Steps()
    members = (promoted("a", is_finished=True), promoted("b"), member("c"))
    promote_all(plan(*members), steps)
    assert steps.done == ["publish c", "finish b", "finish c"]


def test_the_first_promotion_that_isnt_recorded_ends_the_run() -> None:
    steps = Steps(data=BadInput("another one came first"))
    with pytest.raises(BadInput):
        promote_all(plan(member("data"), member("wal")), steps)
    assert steps.done == []


def test_what_was_promoted_before_an_error_is_finished_and_named() -> None:
    steps = Steps(data=KafkaFailed("no status came"))
    with pytest.raises(PromotionCutOff) as error:
        promote_all(plan(member("a"), member("data"), member("wal")), steps)
    assert steps.done == ["publish a", "finish a"]
    assert error.value.what == (
        "of the group, a was promoted at b, and data, wal wasn't: no status came"
    )
    assert "Repeat this" in error.value.next


def test_the_members_are_at_one_point_or_it_is_said_which_arent() -> None:
    assert plan(member("data"), member("wal")).refusals() == []
    assert plan(member("data", None)).refusals() == []  # it is alone
    assert plan(member("data", "p"), member("wal", "q")).refusals() == [
        "data and wal are at different points"
    ]
    assert plan(member("data"), member("wal", None)).refusals() == [
        "wal is at no common point of its group"
    ]
    both = plan(member("data", claim=CUT), member("wal", None))
    assert both.refusals() == [
        "data isn't consistent: a cycle was cut off",
        "wal is at no common point of its group",
    ]


def test_a_promoted_member_counts_as_far_as_its_point_is_known() -> None:
    assert plan(promoted("data"), member("wal")).refusals() == []
    assert plan(promoted("data", None), member("wal")).refusals() == []
    assert plan(promoted("data", "q"), member("wal")).refusals() == [
        "data and wal are at different points"
    ]


def test_a_planned_move_loses_nothing_of_any_member() -> None:
    assert plan(promoted("a"), member("data"), member("wal")).losses() == []
    some = member("wal", lost=lost(9, "2 3"))
    unknown, cut = member("x", lost=None), member("y", claim=CUT)
    hole = member("z", lost=replace(lost(4), is_complete=False))
    assert plan(member("data"), some, unknown, cut, hole).losses() == ["wal", "x", "y", "z"]
