"""NbdDevice where its server is special, ends, or answers nothing. The rest: tests/contract."""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest
import trustme
from deadlines import DEADLINE_S
from nbd_servers import Nbdkit, NbdServer, skip_without, write_certificates

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client import connection_pool, libnbd
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.processes.nbd_server import free_port

SIZE = 1 << 20


class Rig:
    """Servers of one image of `SIZE` zeros. They are killed at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[NbdServer] = []

    def start(
        self, *options: str, kind: type[NbdServer] = Nbdkit, parameters: Sequence[str] = ()
    ) -> NbdServer:
        server = kind(self.folder, *options, parameters=parameters)
        skip_without(server)
        if not server.image.exists():
            FileDevice.create(server.image, SIZE).close()
        self.servers.append(server)
        server.start()
        return server


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    # A connection is looked at before each request, however recently it was used.
    monkeypatch.setattr(connection_pool, "_TRUSTED_S", 0)
    rig = Rig(tmp_path)
    yield rig
    for server in rig.servers:
        server.kill()


def test_a_server_that_is_killed_fails_the_read_and_is_found_again(rig: Rig) -> None:
    server = rig.start()
    with open_device(server.uri, writable=False) as device:
        assert device.pread(offset=0, length=4096) == bytes(4096)
        server.kill()
        for _ in range(2):
            with pytest.raises(DeviceFailed) as caught:
                device.pread(offset=8192, length=4096)
            assert caught.value.where.endswith("?socket=" + str(server.socket) + ", offset 8192")
            assert "server" in caught.value.next
        server.start()
        assert device.pread(offset=8192, length=4096) == bytes(4096)


def test_a_server_that_is_killed_in_the_middle_of_a_read_fails_it(rig: Rig) -> None:
    server = rig.start("--filter=delay", parameters=["rdelay=100"])
    with open_device(server.uri, writable=False) as device, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(device.pread, offset=0, length=4096)
        server.kill()
        with pytest.raises(DeviceFailed, match="reading failed"):
            reading.result()


def test_with_something_unflushed_a_lost_connection_is_final(rig: Rig) -> None:
    server = rig.start()
    with open_device(server.uri, writable=True) as device:
        device.pwrite(0, b"x" * 4096)
        device.flush()
        server.kill()
        server.start()
        device.pwrite(0, b"y" * 4096)  # nothing was lost: it connects again
        server.kill()
        server.start()
        for _ in range(2):
            with pytest.raises(DeviceFailed, match="connection was lost"):
                device.flush()
            with pytest.raises(DeviceFailed, match="connection was lost"):
                device.pread(offset=0, length=1)
    with open_device(server.uri, writable=True) as device:
        device.pwrite(0, b"y" * 4096)
        device.flush()


def test_a_device_that_may_not_reconnect_lasts_as_long_as_its_connection(rig: Rig) -> None:
    server = rig.start()
    uri = parse_nbd_uri(server.uri)
    with NbdDevice(uri, writable=True, reconnects=False) as device:
        assert device.is_intact()
        server.kill()
        server.start()
        assert not device.is_intact()
        with pytest.raises(DeviceFailed, match="connection was lost"):
            device.pread(offset=0, length=1)


def test_a_server_that_answers_nothing_fails_at_the_deadline(rig: Rig) -> None:
    server = rig.start()
    uri = parse_nbd_uri(server.uri)
    with NbdDevice(uri, writable=False, request_s=0.05) as device:
        server.pause()
        with pytest.raises(DeviceFailed, match=r"no answer within 0\.05 s"):
            device.pread(offset=0, length=4096)
    with pytest.raises(DeviceFailed, match=r"doesn't answer within 0\.05 s"):
        NbdDevice(uri, writable=False, connect_s=0.05)


@pytest.mark.parametrize("mode", ["auto", "disable"])
def test_there_are_several_connections_only_where_one_flush_covers_all(rig: Rig, mode: str) -> None:
    server = rig.start("--filter=multi-conn", parameters=[f"multi-conn-mode={mode}"])
    connections = set[int]()
    barrier = Barrier(2, timeout=DEADLINE_S if mode == "auto" else 0.05)
    real = NbdConnection.pread

    def note(connection: NbdConnection, address: int, *, offset: int, length: int) -> None:
        connections.add(id(connection))
        with suppress(BrokenBarrierError):
            barrier.wait()
        real(connection, address, offset=offset, length=length)

    with open_device(server.uri, writable=True) as device:
        device.pwrite(0, b"x" * SIZE)
        device.flush()
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
            patch.setattr(NbdConnection, "pread", note)
            pages = list(threads.map(lambda i: device.pread(offset=i * 512, length=512), range(2)))
    assert pages == [b"x" * 512] * 2
    assert len(connections) == (2 if mode == "auto" else 1)


def test_a_server_may_need_alignment(rig: Rig) -> None:
    server = rig.start(
        "--filter=blocksize-policy",
        parameters=[
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=65536",
            "blocksize-error-policy=error",
        ],
    )
    with open_device(server.uri, writable=True) as device:
        device.pwrite(0, b"a" * SIZE)
        device.pwrite(5, b"b" * 100_000)
        device.zero(offset=4000, length=200)
        device.zero(offset=8191, length=8194)
        assert device.pread(offset=4999, length=3) == b"bbb"
        expected = bytearray(b"a" * SIZE)
        expected[5:100_005] = b"b" * 100_000
        expected[4000:4200] = bytes(200)
        expected[8191:16385] = bytes(8194)
        assert device.pread(offset=0, length=SIZE) == expected
        with ThreadPoolExecutor(8) as threads:  # all change the same block
            list(threads.map(lambda i: device.pwrite(i * 8, bytes([i]) * 8), range(256)))
        assert device.pread(offset=0, length=2048) == b"".join(bytes([i]) * 8 for i in range(256))


def test_a_server_without_zero_and_extents(rig: Rig) -> None:
    server = rig.start("--filter=nozero", "--filter=noextents")
    with open_device(server.uri, writable=True) as device:
        device.pwrite(0, b"a" * SIZE)
        device.zero(offset=1, length=SIZE - 2)
        assert device.pread(offset=0, length=SIZE) == b"a" + bytes(SIZE - 2) + b"a"
        assert list(device.allocated(5)) == [(5, SIZE - 5)]


def test_a_server_that_cannot_be_written_to_is_refused_at_once(rig: Rig) -> None:
    server = rig.start("--readonly")
    with pytest.raises(DeviceFailed, match="reading only"):
        open_device(server.uri, writable=True)
    open_device(server.uri, writable=False).close()


def test_a_server_without_flush_is_no_place_for_a_secondary(rig: Rig) -> None:
    server = rig.start(kind=NoFlush)
    with pytest.raises(BadUse, match="no flush"):
        open_device(server.uri, writable=True)
    open_device(server.uri, writable=False).close()


class NoFlush(Nbdkit):
    def _command(self) -> list[str]:
        script = ["get_size=echo 1M", "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null"]
        return [
            "nbdkit",
            "--foreground",
            f"--unix={self.socket}",
            f"--pidfile={self.pid_file}",
            "eval",
            *script,
        ]


def test_the_export_must_keep_its_size(rig: Rig) -> None:
    server = rig.start()
    with open_device(server.uri, writable=False) as device:
        server.kill()
        with FileDevice(server.image, writable=True) as image:
            image.resize(2 * SIZE)
        server.start()
        with pytest.raises(DeviceFailed, match=f"{2 * SIZE} bytes now, and had {SIZE}"):
            device.pread(offset=0, length=1)


def test_the_absence_of_libnbd_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    libnbd.load_libnbd.cache_clear()
    monkeypatch.setattr(libnbd.ctypes, "CDLL", missing)
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    with pytest.raises(BadUse) as caught:
        open_device("nbd://127.0.0.1:1/e", writable=False)
    assert str(caught.value) == (
        "libnbd isn't installed, and an NBD address needs it (nbd://127.0.0.1:1/e). On Debian and "
        "Ubuntu: apt install libnbd0. On Fedora and RHEL: dnf install libnbd."
    )


def test_tls_with_certificates_of_both_sides(rig: Rig) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    certificates = write_certificates(rig.folder / "server", ours, "server", "localhost")
    client = write_certificates(rig.folder / "client", ours, "client", "client.example")
    anonymous = write_certificates(rig.folder / "anonymous", ours, "client")
    stranger = write_certificates(rig.folder / "stranger", theirs, "client", "client.example")
    server = rig.start("--tls=require", f"--tls-certificates={certificates}", "--tls-verify-peer")
    address = server.uri.replace("nbd+", "nbds+")
    with open_device(f"{address}&tls-certificates={client}", writable=True) as device:
        device.pwrite(100, b"x" * 100_000)
        device.flush()
        assert device.pread(offset=99, length=2) == b"\0x"
    for refused in (
        server.uri,  # without TLS
        f"{address}&tls-certificates={anonymous}",
        f"{address}&tls-certificates={stranger}",
    ):
        with pytest.raises(DeviceFailed, match="connecting failed"):
            open_device(refused, writable=False).pread(offset=0, length=1)


@pytest.mark.parametrize(("name", "is_right"), [("localhost", True), ("elsewhere.example", False)])
def test_the_name_in_the_certificate_counts(rig: Rig, name: str, is_right: bool) -> None:
    authority = trustme.CA()
    certificates = write_certificates(rig.folder / "server", authority, "server", name)
    trusted = write_certificates(rig.folder / "client", authority, "client")
    server = TlsOverTcp(rig.folder, "--tls=require", f"--tls-certificates={certificates}")
    skip_without(server)
    FileDevice.create(server.image, SIZE).close()
    rig.servers.append(server)
    server.start()
    address = f"nbds://localhost:{server.port}/?tls-certificates={trusted}"
    if is_right:
        open_device(address, writable=False).close()
        return
    with pytest.raises(DeviceFailed, match="connecting failed"):
        open_device(address, writable=False)
    open_device(f"{address}&tls-verify-peer=false", writable=False).close()


class TlsOverTcp(Nbdkit):
    port = 0

    def _command(self) -> list[str]:
        self.port = free_port("127.0.0.1")
        listen = ["--ipaddr=127.0.0.1", f"--port={self.port}", f"--pidfile={self.pid_file}"]
        return ["nbdkit", "--foreground", *listen, *self.options, "file", str(self.image)]
