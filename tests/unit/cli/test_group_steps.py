"""Steps of a whole group: all members are held and checked before one of them is changed."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from notation import promotion, record, volume

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.cli.support import group_promotions, group_rejoins, promoting
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.group_promotions import (
    HeldPlan,
    KafkaPromotions,
    check_address,
    check_nothing_lost,
    hold_and_plan,
)
from mirrorlog.cli.support.group_rejoins import GroupRejoin, RejoinOptions, open_group
from mirrorlog.cli.support.promoting import AnotherPrimary, NotConsistent, lost_in_words
from mirrorlog.cli.support.rejoining import RejoinPlan
from mirrorlog.consumers.failover.claims import SecondaryClaim
from mirrorlog.consumers.failover.group_promotion import (
    GroupPromotion,
    PlannedPromotion,
    PromotionCutOff,
    promote_all,
)
from mirrorlog.consumers.failover.lost_writes import lost_writes
from mirrorlog.consumers.state.pauses import PauseFile, Pauses
from mirrorlog.domain.commands import CommandStatus, RejectReason, StatusCode
from mirrorlog.domain.volume_states import apply
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, KafkaFailed
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.coverage import VolumeLog

SIZE = 1 << 16
DATA, WAL = (volume(name, group="db", size_bytes=SIZE) for name in ("data", "wal"))
WELL = SecondaryClaim(consistent_position=4, parted_position=4, reason=None)


def call(folder: Path) -> Invocation:
    settings = Settings(state_dir=folder / "state")
    return cast(Invocation, SimpleNamespace(settings=settings, output=None))


def test_one_member_that_cant_be_held_leaves_all_as_they_are(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "data.img", SIZE).close()
    with pytest.raises(DeviceFailed), ExitStack() as stack:
        hold_and_plan(call(tmp_path), stack, [DATA, WAL], "b", tmp_path, 0)
    assert PauseFile(tmp_path).load() == Pauses()
    assert not list(tmp_path.glob(".*primary"))


def test_all_members_are_held_while_the_worth_of_each_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "wal"):
        FileDevice.create(tmp_path / f"{name}.img", SIZE).close()

    def assess(*_: object) -> object:
        assert PauseFile(tmp_path).load() == Pauses(volumes=frozenset({"data", "wal"}))
        cut = SecondaryClaim(consistent_position=None, parted_position=None, reason="cut off")
        return cut, None

    monkeypatch.setattr(group_promotions, "assess", assess)
    with ExitStack() as stack:
        held = hold_and_plan(call(tmp_path), stack, [DATA, WAL], "b", tmp_path, 0)
        assert held.names == ["data", "wal"]
        assert len(held.plan.refusals()) == 3
        assert "volume wal is then" in held.costs()[1] and "cut off" in held.costs()[1]
        assert [row["consistent_position"] for row in held.fields()] == [None, None]
    assert PauseFile(tmp_path).load() == Pauses()


def test_a_promotion_without_an_answer_leaves_all_members_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node may record it later. What a site copied meanwhile would be promoted unproved."""
    silent = KafkaFailed("no status came", next="Is a node running?")
    accepted, refused = StatusCode.ACCEPTED, StatusCode.REJECTED
    folders = (tmp_path / str(number) for number in range(4))
    assert promote(next(folders), monkeypatch, silent) == {"data", "wal"}
    assert promote(next(folders), monkeypatch, KeyboardInterrupt()) == {"data", "wal"}
    assert promote(next(folders), monkeypatch, refused) == set()
    assert promote(next(folders), monkeypatch, accepted, refused) == {"data", "wal"}


def promote(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *answers: StatusCode | BaseException
) -> frozenset[str]:
    """Promote a group; return what is paused then. answers: to the promotions, in their order."""
    folder.mkdir()
    for name in ("data", "wal"):
        FileDevice.create(folder / f"{name}.img", SIZE).close()
    coming = iter(answers)

    def send(*_: object) -> CommandStatus:
        answer = next(coming)
        if isinstance(answer, BaseException):
            raise answer
        reason = RejectReason.OTHER_GENERATION if answer is StatusCode.REJECTED else None
        return CommandStatus(partition=0, position=9, code=answer, reason=reason, text="", at_us=1)

    monkeypatch.setattr(group_promotions, "assess", lambda *_: (WELL, None))
    monkeypatch.setattr(promoting, "send_made", send)
    monkeypatch.setattr(promoting, "find_volume", lambda _, name: volume(name, group="db"))
    monkeypatch.setattr(group_promotions, "finish_promotion", lambda *_, **__: {})
    with ExitStack() as stack:
        held = hold_and_plan(call(folder), stack, [DATA, WAL], "b", folder, 0)
        steps = KafkaPromotions(call(folder), held.held, "b", None, 0)
        with suppress(KafkaFailed, AnotherPrimary, PromotionCutOff, KeyboardInterrupt):
            promote_all(held.plan, steps)
    return PauseFile(folder).load().volumes


def test_what_a_promotion_loses_is_unknown_where_nothing_is_recorded() -> None:
    hole = replace(lost_writes(DATA, VolumeLog(), after=4, through=9), is_complete=False)
    assert lost_in_words(DATA, hole) == (
        "Nobody knows what is lost: the log has a hole after position 4."
    )
    log = VolumeLog()
    log.add(record("4..9", "2 3"))
    undated = replace(lost_writes(DATA, log, after=4, through=9), first_at_us=None)
    assert "1970" not in lost_in_words(DATA, undated)


def test_one_moment_is_said_only_of_members_whose_point_is_known() -> None:
    def moment(*points: str | None) -> str:
        members = [
            PlannedPromotion(volume=member, point_id=point, claim=None)
            for member, point in zip((DATA, WAL), points, strict=True)
        ]
        return HeldPlan(GroupPromotion("b", tuple(members)), {}).moment()

    assert moment("p", "p") == "All of them are at one moment."
    assert moment("p", "q").startswith("Not of one moment")
    assert moment(None, "p") == "Nobody knows as of which moment data was promoted."


def test_a_planned_move_that_loses_something_of_one_member_names_it() -> None:
    log = VolumeLog()
    log.add(record("4..9", "2 3"))
    losses = {
        "data": lost_writes(DATA, VolumeLog(), after=4, through=4),
        "wal": lost_writes(WAL, log, after=4, through=9),
    }
    members = tuple(
        PlannedPromotion(volume=member, point_id="p", claim=WELL, lost=losses[member.volume])
        for member in (DATA, WAL)
    )
    check_nothing_lost(GroupPromotion("b", members[:1]))
    with pytest.raises(NotConsistent, match=r"nothing was done\. wal: Lost: up to") as error:
        check_nothing_lost(GroupPromotion("b", members))
    assert error.value.where == "volume wal at b"


def test_one_address_isnt_that_of_several_volumes() -> None:
    check_address([DATA], "nbd://h/x")
    check_address([DATA, WAL], "nbd://h/{volume}")
    with pytest.raises(BadUse, match="several volumes"):
        check_address([DATA, WAL], "nbd://h/x")
    RejoinOptions(host="one-host").check_for([DATA, WAL])
    with pytest.raises(BadUse, match="several volumes"):
        RejoinOptions(copy="/old.img").check_for([DATA, WAL])
    own = RejoinOptions(copy="/old/{volume}.img", export="nbd://h/{volume}").for_volume("wal")
    assert (own.copy, own.export, own.host) == ("/old/wal.img", "nbd://h/wal", None)


def test_a_group_rejoins_without_those_that_follow_or_have_no_former_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted = [
        replace(apply(member, promotion(), 9), volume=member.volume)
        for member in "abc"
        for member in [volume(member, group="db")]
    ]
    opened: list[str] = []

    class Plan:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> str:
            opened.append(self.name)
            return self.name

        def __exit__(self, *_: object) -> None:
            opened.remove(self.name)

    monkeypatch.setattr(group_rejoins, "open_plan", lambda _, name, **__: Plan(name))
    monkeypatch.setattr(group_rejoins, "is_following", lambda _, v, *__, **___: v.volume == "b")
    with ExitStack() as stack:
        group = open_group(
            call(tmp_path),
            stack,
            [*promoted, DATA],
            site="old",
            folder=tmp_path,
            options=RejoinOptions(),
            is_whole=True,
        )
        assert opened == ["a", "c"]
        assert [str(plan) for plan in group.plans] == opened
        assert group.others() == {"following": ["b"], "unpromoted": ["data"]}
    assert opened == []


def test_one_copy_of_which_nothing_is_known_refuses_the_whole_group() -> None:
    def plan(member: Volume, *, is_known: bool) -> RejoinPlan:
        named_after = 4 if is_known else None
        return RejoinPlan(
            member,
            "old",
            Path("/old"),
            f"file:///old/{member.volume}",
            former=None,  # type: ignore[arg-type]
            named_after=named_after,
            copies_all=not is_known,
            marks=None,  # type: ignore[arg-type]
        )

    GroupRejoin((plan(DATA, is_known=True),), (WAL,), ()).check_known()
    group = GroupRejoin((plan(DATA, is_known=True), plan(WAL, is_known=False)), (), ())
    with pytest.raises(BadUse, match="in which blocks") as error:
        group.check_known()
    assert error.value.where == "volume wal, file:///old/wal"
    assert "Volume data: What file:///old/data holds" in group.cost()
