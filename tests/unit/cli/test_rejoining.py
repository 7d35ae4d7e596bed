"""A rejoin stands on what the host of the former primary knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from notation import promotion, volume

from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.rejoining import (
    HostNotRecovered,
    check_copy,
    first_primary_promotion,
    has_leftovers,
)
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.volume_states import apply
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.producers.durable.activity_format import (
    ActivityEntry,
    ActivityOp,
    ActivityState,
)
from mirrorlog.producers.durable.activity_log import ActivityLog
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.settings import Settings

ID, SESSION = str(UUID(int=5)), str(UUID(int=6))
MARK = PrimaryMark(primary_id=ID, volume="v", created_at_us=0, lasting=None)
SETTLED = ActivityEntry(ActivityOp.SETTLED, "v")
PRIMARY = ActivityEntry(ActivityOp.PRIMARY, "v", primary_id=ID)
HOT = ActivityEntry(ActivityOp.HOT, "v", region=3)
OPENED = ActivityEntry(ActivityOp.OPENED, "v", session=SESSION)


def call(folder: Path, *entries: ActivityEntry) -> Invocation:
    """Return a call on a machine whose host has left these entries."""
    if entries:
        host = DiskFolder(folder / "host" / "host-v")
        host.lock()
        log = ActivityLog(host, SESSION, 1 << 20, ActivityState())
        log.append(entries)
        log.close()
        host.close()
    return Invocation(Settings(state_dir=folder), Output(json=True), verbose=False)


def promoted() -> Volume:
    return apply(volume(primary="nbd://a/v"), promotion(parted_position=5), 9)


def test_what_a_host_left_is_known_from_its_activity_log(tmp_path: Path) -> None:
    assert not has_leftovers(call(tmp_path / "a", SETTLED, PRIMARY), volume(), MARK, "host-v")
    assert has_leftovers(
        call(tmp_path / "b", SETTLED, PRIMARY, OPENED, HOT), volume(), MARK, "host-v"
    )


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (OPENED, HOT),  # it doesn't cover the volume's past
        (SETTLED, replace(PRIMARY, primary_id=SESSION)),
    ],
    ids=["no log", "not covered", "another primary"],
)
def test_a_host_that_knows_nothing_of_the_copy_vouches_for_nothing(
    tmp_path: Path, entries: tuple[ActivityEntry, ...]
) -> None:
    with pytest.raises(HostNotRecovered, match="nobody knows what was written"):
        has_leftovers(call(tmp_path, *entries), volume(), MARK, "host-v")


@pytest.mark.parametrize(("known", "is_it"), [(4, False), (5, True), (8, True), (None, False)])
def test_the_first_primary_is_known_by_what_its_host_knew_where_the_copies_parted(
    tmp_path: Path, known: int | None, is_it: bool
) -> None:
    """The description had its address as an NBD export, and no promotion knows its mark."""
    entries = [SETTLED, PRIMARY]
    if known is not None:
        entries.append(ActivityEntry(ActivityOp.KNOWN, "v", position=known))
    first = first_primary_promotion(call(tmp_path, *entries), promoted(), MARK, None)
    assert (first == promoted().promotions[0]) is is_it


@pytest.mark.parametrize(
    ("copy", "export", "why"),
    [
        ("nbd://h/v", None, "--copy FILE --address nbd://h:10809/v"),
        (None, "/tmp/v.img", "isn't the address of an NBD export"),
    ],
)
def test_a_copy_is_named_as_a_file_and_its_export_as_one(
    copy: str | None, export: str | None, why: str
) -> None:
    with pytest.raises(BadUse, match=why):
        check_copy(copy, export, "a", volume())
    check_copy("/tmp/v.img", "nbds://h/v", "a", volume())
