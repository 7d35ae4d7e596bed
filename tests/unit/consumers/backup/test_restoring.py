"""A restored target equals its point, and nothing is overwritten that may be needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import lock_image
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.secondary_marks import mark_path
from mirrorlog.consumers.backup.restoring import open_target, restore
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.task_runner import OneAtATime
from mirrorlog.simulation.memory_devices import MemoryDevice

SIZE, BLOCK = 64 << 10, 4096
POINT = b"a" * BLOCK + bytes(3 * BLOCK) + b"b" * BLOCK + bytes(SIZE - 5 * BLOCK - 5)
VOLUME = Volume(
    volume="v",
    generation="generation",
    size_bytes=len(POINT),
    block_size=BLOCK,
    partition=0,
    origin_position=-1,
    initially_zeroed=False,
    primary="v",
)
PRIMARY_ID = "11111111-1111-4111-8111-111111111111"


def point() -> MemoryDevice:
    device = MemoryDevice(len(POINT))
    device.pwrite(0, POINT[:BLOCK])
    device.pwrite(4 * BLOCK, POINT[4 * BLOCK : 5 * BLOCK])
    device.flush()
    return device


def restored(
    address: str, folder: Path, *, may_overwrite: bool = False, source: MemoryDevice | None = None
) -> None:
    source = source or point()
    marks = PrimaryMarkFiles(folder / "marks")
    with open_target(address, len(POINT), marks, may_overwrite=may_overwrite) as target:
        restore(source, target, volume=VOLUME, tasks=OneAtATime())


def test_a_new_file_is_whole_sparse_and_has_the_true_size(tmp_path: Path) -> None:
    path = tmp_path / "v.img"
    restored(str(path), tmp_path)
    assert path.read_bytes() == POINT
    assert path.stat().st_blocks * 512 <= 2 * BLOCK
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_that_was_full_holds_nothing_of_before(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * SIZE)
    restored(str(path), tmp_path, may_overwrite=True)
    assert path.read_bytes() == POINT + b"x" * (SIZE - len(POINT))  # behind the end it stays


def test_an_empty_target_needs_no_word(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    FileDevice.create(path, SIZE).close()
    restored(str(path), tmp_path)
    assert path.read_bytes()[: len(POINT)] == POINT


def test_everything_is_durable_when_it_is_done() -> None:
    target = MemoryDevice(SIZE)
    target.pwrite(0, b"x" * SIZE)
    target.flush()
    assert restore(point(), target, volume=VOLUME, tasks=OneAtATime()) == 2 * BLOCK
    target.crash()
    assert target.snapshot() == POINT + b"x" * (SIZE - len(POINT))


def marked_as_primary(path: Path, folder: Path) -> None:
    mark = PrimaryMark(primary_id=PRIMARY_ID, volume="v", created_at_us=1, lasting=None)
    with FileDevice(path, writable=False) as device:
        PrimaryMarkFiles(folder / "marks").write([(device, mark)])


def marked_as_secondary(path: Path, _: Path) -> None:
    mark_path(path).write_bytes(b"damaged, and so nobody knows whose it is")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path, _: path.write_bytes(b"x" * SIZE), "holds data"),
        (lambda path, _: path.write_bytes(b"x" * BLOCK), f"has {BLOCK} bytes"),
    ],
    ids=["data", "too small"],
)
def test_what_can_t_be_a_target_is_as_before(make, what: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "disk"
    make(path, tmp_path)
    before = path.read_bytes()
    with pytest.raises(BadUse, match=what):
        restored(str(path), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mark", [marked_as_primary, marked_as_secondary])
def test_a_volume_s_own_disks_are_never_overwritten(mark, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "disk"
    path.write_bytes(b"x" * SIZE)
    mark(path, tmp_path)
    with pytest.raises(Exception, match=r"primary of volume v|mark of a secondary"):
        restored(str(path), tmp_path, may_overwrite=True)
    assert path.read_bytes() == b"x" * SIZE


def test_a_file_that_another_process_writes_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * SIZE)
    with FileDevice(path, writable=True) as held:
        lock_image(held.fileno(), str(path))
        with pytest.raises(BadUse):
            restored(str(path), tmp_path, may_overwrite=True)
    assert path.read_bytes() == b"x" * SIZE


class FailsAtTheEnd(MemoryDevice):
    """A point whose last range can't be read."""

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        yield from ((0, BLOCK), (4 * BLOCK, BLOCK))

    def pread(self, *, offset: int, length: int) -> bytes:
        if offset:
            raise DeviceFailed("planned", where=f"memory, offset {offset}")
        return bytes(super().pread(offset=offset, length=length))


def test_a_failed_restore_leaves_no_file(tmp_path: Path) -> None:
    source = FailsAtTheEnd(len(POINT))
    source.pwrite(0, POINT)
    with pytest.raises(DeviceFailed, match="planned"):
        restored(str(tmp_path / "v.img"), tmp_path, source=source)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_restore_s_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "v.img"
    (tmp_path / "v.img.restoring").write_bytes(b"x" * 3 * SIZE)
    restored(str(path), tmp_path)
    assert path.read_bytes() == POINT
    assert list(tmp_path.iterdir()) == [path]


def test_another_restore_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "v.img"
    marks = PrimaryMarkFiles(tmp_path / "marks")
    with open_target(str(path), SIZE, marks, may_overwrite=False) as first:
        with pytest.raises(BadUse):
            restored(str(path), tmp_path)
        first.pwrite(0, b"first")
    assert path.read_bytes()[:5] == b"first"


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "v.img"
    marks = PrimaryMarkFiles(tmp_path / "marks")
    with (
        pytest.raises(DeviceFailed, match="move it by hand") as raised,
        open_target(str(path), len(POINT), marks, may_overwrite=False) as target,
    ):
        restore(point(), target, volume=VOLUME, tasks=OneAtATime())
        path.write_bytes(b"mine")
    assert path.read_bytes() == b"mine"
    assert "v.img.restoring" in str(raised.value)
    assert (tmp_path / "v.img.restoring").read_bytes() == POINT
