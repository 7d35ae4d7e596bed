"""What `volume group` says, and who the members of a group are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirrorlog.cli.commands.volume_group import in_words
from mirrorlog.domain.volumes import Volume, VolumeState, check_group_name, members_of
from mirrorlog.errors import BadUse


def volume(name: str, group: str | None, *, shared: bool = False) -> Volume:
    return Volume(
        volume=name,
        generation="11111111-1111-4111-8111-111111111111",
        size_bytes=8192,
        block_size=4096,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary=name,
        shared=shared,
        group=group,
    )


def test_the_members_are_the_volumes_of_the_group_that_arent_retired() -> None:
    volumes = [volume(name, "db") for name in ("wal", "data", "old")]
    volumes[2] = replace(volumes[2], state=VolumeState.RETIRED)
    members = members_of("db", [*volumes, volume("x", None), volume("y", "other")])
    assert [each.volume for each in members] == ["data", "wal"]


def test_the_text_names_the_members_and_those_without_snapshots() -> None:
    data, wal = volume("data", "db"), volume("wal", "db", shared=True)
    assert in_words(data, [data, wal]) == (
        "volume data is in group db: data, wal. No common point is possible with wal: "
        "a shared volume has no snapshots"
    )
    assert in_words(volume("x", None), []) == "volume x is in no group"


@pytest.mark.parametrize("name", ["", ".db", "a/b", "x" * 201])
def test_a_group_needs_a_name_that_a_volume_could_have(name: str) -> None:
    with pytest.raises(BadUse, match="can't name a consistency group"):
        check_group_name(name)
