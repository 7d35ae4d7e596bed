"""What `volume group` says, and who the members of a group are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import volume

from mirrorlog.cli.commands.volume_group import in_words
from mirrorlog.domain.volumes import VolumeState, check_group_name, members_of
from mirrorlog.errors import BadUse


def test_the_members_are_the_volumes_of_the_group_that_arent_retired() -> None:
    volumes = [volume(name, group="db") for name in ("wal", "data", "old")]
    volumes[2] = replace(volumes[2], state=VolumeState.RETIRED)
    members = members_of("db", [*volumes, volume("x"), volume("y", group="other")])
    assert [member.volume for member in members] == ["data", "wal"]


def test_the_text_names_the_members_and_those_without_snapshots() -> None:
    data, wal = volume("data", group="db"), volume("wal", group="db", shared=True)
    assert in_words(data, [data, wal]) == (
        "volume data is in group db: data, wal. No common point is possible with wal: "
        "a shared volume has no snapshots"
    )
    assert in_words(volume("x"), []) == "volume x is in no group"


@pytest.mark.parametrize("name", ["", ".db", "a/b", "x" * 201])
def test_a_group_needs_a_name_that_a_volume_could_have(name: str) -> None:
    with pytest.raises(BadUse, match="can't name a consistency group"):
        check_group_name(name)
