"""Snapshots of two volumes at one moment, while a client writes to one and then to the other.

The client writes the number n to `data`, and when that is acknowledged, to `wal`. So of one moment,
`data` holds the number of `wal`, or the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
from deadlines import wait_until
from served_volume import ServedVolume, native_libraries

from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.domain.snapshots import HoldExport, hold_export, parse_description, snapshot_export
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.nbd.native import NativeLibraries

BLOCK = 4096
NAMES = ("data", "wal")
ROUNDS = 30


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeLibraries:
    """Return the libraries, built once."""
    return native_libraries(tmp_path_factory.mktemp("native"))


@contextmanager
def group(native: NativeLibraries, folder: Path) -> Iterator[dict[str, ServedVolume]]:
    """Yield two volumes, each with a host of its own, as `host serve` does."""
    with ExitStack() as stack:
        served = {}
        for name in NAMES:
            (folder / name).mkdir()
            volume = ServedVolume(native, folder / name, 64 * BLOCK, name=name)
            served[name] = stack.enter_context(volume)
        yield served


@contextmanager
def site(folder: Path, served: dict[str, ServedVolume]) -> Iterator[SitePrimaries]:
    """Yield the primaries of a site, which have been found."""
    uris = {name: f"nbd+unix:///?socket={folder / name / 's'}" for name in NAMES}
    primaries = SitePrimaries(
        SiteAddresses("a", folder, primaries=uris), PrimaryMarkFiles(folder / "marks")
    )
    for volume in served.values():
        primaries.find(volume.volume)
    yield primaries
    primaries.close()


class InOrder:
    """Writes n to the first block of `data`, then of `wal`, for n from 1 on, until stopped."""

    def __init__(self, served: dict[str, ServedVolume]) -> None:
        self._devices = [served[name].connect(writable=True) for name in NAMES]
        self._stopped = Event()
        self._thread = Thread(target=self._run)
        self.number = 0

    def __enter__(self) -> InOrder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for device in self._devices:
            device.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for device in self._devices:
                device.pwrite(0, (self.number + 1).to_bytes(8, "big") * (BLOCK // 8))
            self.number += 1

    def wait_for_more(self, count: int) -> None:
        """Wait until it has written so many more numbers."""
        wanted = self.number + count
        wait_until(lambda: self.number >= wanted, every_s=0.001)


def taken_together(
    primaries: SitePrimaries, volumes: Sequence[Volume]
) -> dict[str, TakenSnapshot] | None:
    """Take snapshots as a site does, which tries again later if a write ended a hold before."""
    try:
        return primaries.take_snapshots(volumes)
    except DeviceFailed:
        return None


def number_in(snapshot: TakenSnapshot | NbdDevice) -> int:
    device = snapshot.device if isinstance(snapshot, TakenSnapshot) else snapshot
    return int.from_bytes(device.pread(offset=0, length=8), "big")


def test_of_two_volumes_a_later_write_is_never_there_without_the_earlier_one(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with (
        group(native, tmp_path) as served,
        site(tmp_path, served) as primaries,
        InOrder(served) as writer,
    ):
        volumes = [served[name].volume for name in NAMES]
        seen = set()
        for _ in range(ROUNDS):
            writer.wait_for_more(1)
            taken = wait_until(partial(taken_together, primaries, volumes))
            writer.wait_for_more(1)
            data, wal = (number_in(taken[name]) for name in NAMES)
            assert wal <= data <= wal + 1
            seen.add(data)
            for name in NAMES:
                command = served[name].commands.topic[taken[name].export.position]
                assert command.volume == name == taken[name].export.volume
                taken[name].device.close()
        assert len(seen) == ROUNDS


def test_a_member_that_doesnt_answer_leaves_no_hold_behind(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with (
        group(native, tmp_path) as served,
        site(tmp_path, served) as primaries,
        served["data"].connect(writable=True) as data,
    ):
        volumes = [served[name].volume for name in NAMES]
        served["wal"].nbdkit.kill()
        with pytest.raises(DeviceFailed):
            primaries.take_snapshots(volumes)
        data.pwrite(0, b"b" * BLOCK)
        device, _ = served["data"].snapshot("s")
        assert device.pread(offset=0, length=1) == b"b"
        device.close()


def test_a_hold_that_nobody_releases_keeps_a_write_back_and_is_lost(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with (
        ServedVolume(native, tmp_path, 64 * BLOCK) as served,
        served.connect(writable=True) as live,
    ):
        hold, other = (served.connect(hold_export(token)) for token in ("t", "u"))
        assert isinstance(parse_description(hold.description), HoldExport)
        other.flush()
        live.pwrite(0, b"b" * BLOCK)  # it waits until the hold is too old
        with pytest.raises(DeviceFailed, match="flushing"):
            hold.flush()
        snapshot = served.connect(snapshot_export("t"))
        assert snapshot.pread(offset=0, length=1) == b"\0"
        for device in (hold, other, snapshot):
            device.close()


def test_a_write_begins_when_all_holds_are_released(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with (
        ServedVolume(native, tmp_path, 64 * BLOCK) as served,
        served.connect(writable=True) as live,
    ):
        holds = [served.connect(hold_export(token)) for token in ("t", "u", "v")]
        with pytest.raises(DeviceFailed, match="connecting"):
            served.connect(hold_export("t"))
        holds[0].flush()
        holds[1].close()
        with served.connect(snapshot_export("v")) as snapshot:
            holds[2].flush()
            holds[2].flush()
            live.pwrite(0, b"b" * BLOCK)
            assert snapshot.pread(offset=0, length=1) == b"\0"
        for device in holds:
            device.close()
