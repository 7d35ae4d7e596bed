"""A member of a consistency group isn't parted from the others unless somebody says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import volume

from mirrorlog.cli.support.group_moves import (
    GroupSplit,
    check_whole,
    members_to_move,
    parting_cost,
)
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.errors import BadUse

DATA, WAL, ALONE = volume("data", group="db"), volume("wal", group="db"), volume("x")


def at(site: str | None, described: Volume) -> Volume:
    return replace(described, primary_site=site)


def moved(
    described: Volume, *others: Volume, whole: bool = False, may_part: bool = False
) -> list[str]:
    volumes = members_to_move(described, [described, *others], "a", whole=whole, may_part=may_part)
    return [member.volume for member in volumes]


def test_a_member_alone_is_refused_and_both_ways_on_are_named() -> None:
    with pytest.raises(GroupSplit) as refused:
        moved(DATA, WAL, ALONE)
    assert "whose other members stay elsewhere: wal" in refused.value.what
    assert "--group moves all of them" in (refused.value.next or "")
    assert "--force moves this one alone. Then no write of it is lost, but group db has no" in (
        refused.value.next or ""
    )


def test_a_group_moves_as_a_whole_or_parts_by_force() -> None:
    assert moved(DATA, WAL, ALONE, whole=True) == ["data", "wal"]
    assert moved(DATA, WAL, may_part=True) == ["data"]
    assert moved(ALONE, DATA, WAL) == ["x"]


def test_a_group_that_moved_in_part_is_looked_at_as_a_whole_again() -> None:
    """A run that died may have left something to do for those that moved."""
    assert moved(DATA, at("a", WAL), whole=True) == ["data", "wal"]


def test_a_volume_in_no_group_moves_with_no_group() -> None:
    with pytest.raises(BadUse, match="in no consistency group"):
        moved(ALONE, DATA, WAL, whole=True)


def test_a_member_follows_those_that_moved_before_it() -> None:
    assert moved(DATA, at("a", WAL)) == ["data"]
    assert moved(DATA, replace(WAL, state=VolumeState.RETIRED)) == ["data"]
    with pytest.raises(GroupSplit):
        moved(DATA, at("b", WAL))
    assert parting_cost(DATA, [], "a") == ""


def test_a_former_primary_of_a_split_group_doesnt_rejoin() -> None:
    """It may be the only copy that is of one moment with the other primaries."""
    promoted = at("b", DATA)
    with pytest.raises(GroupSplit) as refused:
        check_whole(promoted, [promoted, WAL, ALONE], "file:///old")
    assert "the primary of data is at site b, and that of wal isn't" in refused.value.what
    assert "Promote wal at site b, too. With --force, what this copy of data holds alone is" in (
        refused.value.next or ""
    )
    check_whole(promoted, [promoted, at("b", WAL)], "file:///old")
    check_whole(at(None, DATA), [DATA, WAL], "file:///old")  # the group wasn't promoted, but moved
    check_whole(ALONE, [DATA, WAL, ALONE], "file:///old")
