"""Whether the secondaries of a group are at one common point when one of them is promoted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import volume

from mirrorlog.consumers.failover.group_claims import group_doubt, other_members
from mirrorlog.consumers.state.secondary_state import CommonPoint, SecondaryState
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.errors import StateDamaged

GENERATION, POINT, OTHER = (f"0000000{digit}-0000-4000-8000-000000000000" for digit in "123")
STATE = SecondaryState(
    "data",
    GENERATION,
    applied_position=9,
    consistent_position=9,
    common_point=CommonPoint(POINT, 9),
)


def member(name: str, group: str | None = "db", site: str | None = None) -> Volume:
    return volume(name, generation=GENERATION, group=group, primary_site=site)


class States:
    """A store of one state for every volume."""

    def __init__(self, state: SecondaryState | Exception | None) -> None:
        self.state = state

    def load(self, volume: str) -> SecondaryState | None:
        if isinstance(self.state, Exception):
            raise self.state
        return None if self.state is None else replace(self.state, volume=volume)


def test_the_others_are_the_members_that_are_still_secondaries() -> None:
    volumes = [
        member("wal"),
        member("data"),
        member("promoted", site="berlin"),
        member("elsewhere", site="oslo"),
        member("x", None),
        replace(member("old"), state=VolumeState.RETIRED),
    ]
    others = other_members(volumes[1], volumes, "berlin")
    assert [other.volume for other in others] == ["elsewhere", "wal"]
    assert other_members(member("x", None), volumes, "berlin") == []


@pytest.mark.parametrize(
    ("state", "doubt"),
    [
        (STATE, None),
        (None, "no copy of wal"),
        (replace(STATE, generation=OTHER), "no copy of wal"),
        (replace(STATE, common_point=CommonPoint(OTHER, 9)), "of wal is at another point"),
        (replace(STATE, common_point=CommonPoint(POINT, 8)), "of wal is at another point"),
        (replace(STATE, consistent_position=None), "of wal is at another point"),
        (StateDamaged("no state"), "nothing is known of wal"),
    ],
)
def test_a_secondary_is_at_the_point_of_the_others_or_it_is_said_why_not(
    state: SecondaryState | Exception | None, doubt: str | None
) -> None:
    reason = group_doubt(STATE, [member("wal")], States(state))  # type: ignore[arg-type]
    assert (reason is None) if doubt is None else doubt in (reason or "")


def test_a_secondary_at_no_point_is_in_doubt_only_beside_others() -> None:
    states = States(STATE)
    for saved in (None, replace(STATE, common_point=None)):
        assert group_doubt(saved, [], states) is None  # type: ignore[arg-type]
        doubt = group_doubt(saved, [member("wal")], states)  # type: ignore[arg-type]
        assert doubt == "it is at no common point of its group"
