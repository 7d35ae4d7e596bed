"""A fork goes to the file that its site has marked, and to no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mirrorlog.adapters.addresses import open_primary
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import ImageUser, lock_secondary
from mirrorlog.adapters.secondary_marks import mark_path, write_marks
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import MirrorlogError
from mirrorlog.producers.forks.marked_secondary import MarkedSecondary, open_marked_secondary

MARK = SecondaryMark(secondary_id="0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10", site="a", volume="v")
OTHER_ID = "0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d11"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A secondary that is marked."""
    FileDevice.create(tmp_path / "v.img", 1 << 20).close()
    write_marks({mark_path(tmp_path / "v.img"): MARK})
    return tmp_path / "v.img"


def opened(path: Path) -> MarkedSecondary:
    return open_marked_secondary(path.as_uri(), site="a", volume="v")


def test_the_secondary_of_the_site_is_written_to(path: Path) -> None:
    device = opened(path)
    assert (device.secondary_id, device.size_bytes) == (MARK.secondary_id, 1 << 20)
    device.pwrite(5, b"hello")
    device.zero(offset=6, length=1)
    device.flush()
    write_marks({mark_path(path): replace(MARK, epoch=9)})  # its site copies something
    device.flush()
    with path.open("r+b") as file:
        lock_secondary(file.fileno(), "", ImageUser.SITE)
    device.close()
    assert path.read_bytes()[5:10] == b"h\0llo"


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (None, "no site has marked it"),
        (replace(MARK, site="b"), "volume v at b"),
        (replace(MARK, volume="w"), "volume w at a"),
    ],
)
def test_any_other_file_is_refused(path: Path, mark: SecondaryMark | None, reason: str) -> None:
    if mark is None:
        mark_path(path).unlink()
    else:
        write_marks({mark_path(path): mark})
    with pytest.raises(MirrorlogError, match=reason):
        opened(path)


def test_a_damaged_mark_is_refused(path: Path) -> None:
    mark_path(path).write_bytes(b"{}")
    with pytest.raises(MirrorlogError, match="mark of a secondary"):
        opened(path)


def test_a_fork_to_a_primary_or_beside_another_fork_is_refused(path: Path) -> None:
    with open_primary(str(path), exclusive=True), pytest.raises(MirrorlogError, match="host"):
        opened(path)
    device = opened(path)
    with pytest.raises(MirrorlogError, match="another fork"):
        opened(path)
    device.close()


def replace_file(path: Path) -> None:
    shutil.copy(path, path.parent / "copy")
    os.replace(path.parent / "copy", path)  # noqa: PTH105


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Path.unlink, "or none"),
        (replace_file, "another file or device"),
        (lambda path: mark_path(path).unlink(), "no site has marked it"),
        (
            lambda path: write_marks({mark_path(path): replace(MARK, secondary_id=OTHER_ID)}),
            "copy it from nothing",
        ),
    ],
)
def test_what_is_flushed_to_another_file_counts_for_nothing(
    path: Path, change: Callable[[Path], object], reason: str
) -> None:
    device = opened(path)
    device.pwrite(0, b"hello")
    change(path)
    with pytest.raises(MirrorlogError, match=reason):
        device.flush()
    device.close()
