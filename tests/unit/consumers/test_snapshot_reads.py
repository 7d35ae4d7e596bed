"""What a site asks of a host that serves its primary: snapshots over NBD."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbd_servers import Nbdkit, skip_without
from served_volume import ServedVolume, native_libraries

from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.resync.snapshot_reads import SnapshotPrimary
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.producers.nbd.native import NativeLibraries

BLOCK = 4096
SIZE = 64 * BLOCK


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeLibraries:
    """Return the libraries, built once."""
    return native_libraries(tmp_path_factory.mktemp("native"))


def primaries(folder: Path, address: str) -> SitePrimaries:
    addresses = SiteAddresses("a", folder, primaries={"v": address})
    return SitePrimaries(addresses, PrimaryMarkFiles(folder / "marks"))


def with_primary(primaries: SitePrimaries, volume: Volume) -> SitePrimaries:
    primaries.find(volume)
    return primaries


def test_a_site_reads_a_snapshot_and_the_primary_once_it_breaks(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with ServedVolume(native, tmp_path, SIZE, kept=(2 * BLOCK, 0)) as served:
        site = with_primary(
            primaries(tmp_path, f"nbd+unix:///?socket={tmp_path / 's'}"), served.volume
        )
        with served.connect(writable=True) as live:
            live.pwrite(0, b"a" * 4 * BLOCK)
            assert site.has_snapshots(served.volume)
            taken = site.take_snapshot(served.volume)
            assert taken.export.session == served.host.session
            primary = SnapshotPrimary(taken.device, site.open(served.volume))
            live.pwrite(0, b"b" * BLOCK)
            assert primary.pread(offset=0, length=2 * BLOCK) == b"a" * 2 * BLOCK
            assert not primary.is_broken
            live.pwrite(BLOCK, b"b" * 2 * BLOCK)
            assert primary.pread(offset=0, length=BLOCK) == b"b" * BLOCK
            assert primary.is_broken
        taken.device.close()
        site.close()


def test_another_server_than_the_one_that_was_found_takes_no_snapshot(
    native: NativeLibraries, tmp_path: Path
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    link = tmp_path / "s"
    with (
        ServedVolume(native, tmp_path / "1", SIZE) as served,
        ServedVolume(native, tmp_path / "2", SIZE),
    ):
        link.symlink_to(tmp_path / "1" / "s")
        site = with_primary(primaries(tmp_path, f"nbd+unix:///?socket={link}"), served.volume)
        link.unlink()
        link.symlink_to(tmp_path / "2" / "s")
        with pytest.raises(DeviceFailed, match="another server answers"):
            site.take_snapshot(served.volume)
        site.close()


def test_a_server_that_isnt_a_host_has_no_snapshots(tmp_path: Path) -> None:
    server = Nbdkit(tmp_path)
    skip_without(server)
    server.image.write_bytes(bytes(SIZE))
    server.start()
    volume = Volume(
        volume="v",
        generation="01234567-89ab-cdef-0123-456789abcdef",
        size_bytes=SIZE,
        block_size=BLOCK,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary="v",
    )
    site = with_primary(primaries(tmp_path, server.uri), volume)
    assert not site.has_snapshots(volume)
    with pytest.raises(DeviceFailed, match="no snapshots"):
        site.take_snapshot(volume)
    site.close()
    server.kill()
