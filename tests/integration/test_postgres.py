"""PostgreSQL under load is whole in each snapshot of the volume that it writes to.

Its data are on ext4, on a loop device over nbdfuse, on a volume that a host exports. Each snapshot
is what a secondary holds that was read from it. It is mounted as after a power cut, and PostgreSQL
recovers on it. All of this needs root, and no Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from postgres import (
    MARKS,
    SIZE,
    Inserts,
    asked,
    is_whole,
    on_volume,
    open_folder,
    postgres,
    prepare,
    read_in_two_moments,
    recovered,
)
from served_volume import ServedVolume, native_libraries

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.range_locks import pieces
from mirrorlog.producers.nbd.native import NativeLibraries
from mirrorlog.settings import load_settings

pytestmark = MARKS
POSITIONS = 20


@pytest.fixture(scope="module")
def native() -> NativeLibraries:
    return native_libraries(load_settings(None, {}).cache_dir)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


def fill(served: ServedVolume, image: Path) -> None:
    """Write what an image holds to a volume."""
    with FileDevice(image, writable=False) as source, served.connect(writable=True) as target:
        for start, length in source.allocated():
            for offset, size in pieces(offset=start, length=length, most_bytes=1 << 20):
                target.pwrite(offset, source.pread(offset=offset, length=size))
        target.flush()


def copy_of(device: NbdDevice, path: Path) -> Path:
    """Write what a device holds to a file, its zeros as holes."""
    path.unlink(missing_ok=True)
    with FileDevice.create(path, SIZE) as target:
        for offset in range(0, SIZE, 1 << 20):
            if any(data := device.pread(offset=offset, length=1 << 20)):
                target.pwrite(offset, data)
    return path


def test_postgres_recovers_in_each_snapshot_of_its_volume(
    native: NativeLibraries, folder: Path
) -> None:
    """A secondary at a consistent position holds what such a snapshot holds."""
    prepare(folder / "base.img", folder)
    kept = (1 << 20, 512 << 20)
    positions = []
    with ExitStack() as stack:
        served = stack.enter_context(ServedVolume(native, folder, SIZE, kept=kept))
        fill(served, folder / "base.img")
        sockets = folder / "sockets"
        mounted = stack.enter_context(
            on_volume(f"nbd+unix:///?socket={folder / 's'}", folder / "fuse")
        )
        stack.enter_context(postgres(mounted / "data", sockets))
        assert asked(sockets, "CREATE TABLE ledger (number int PRIMARY KEY, filling text)") == ""
        inserts = Inserts(sockets)
        stack.callback(inserts.end)
        for number in range(POSITIONS):
            inserts.wait_for(20 * (number + 1))
            first = inserts.acknowledged
            snapshot, _ = served.snapshot(f"s{number}")
            last = inserts.begun
            with snapshot:
                image = copy_of(snapshot, folder / f"snapshot-{min(number, 2)}.img")
            highest, count = recovered(image, folder)
            assert first <= highest <= last and count == highest, (first, highest, last, count)
            positions.append(highest)
    assert positions == sorted(positions) and len(set(positions)) > POSITIONS // 2
    torn = read_in_two_moments(folder / "snapshot-1.img", image, folder / "torn.img")
    assert not is_whole(torn, folder, at_least=positions[-1])
