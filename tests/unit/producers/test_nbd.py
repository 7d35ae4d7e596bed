"""The NBD export without nbdkit: extents of the relay, addresses, errors for missing programs."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from mirrorlog.errors import BadUse, PartFailed
from mirrorlog.processes.nbd_server import NbdAddress, free_port, remove_stale_socket
from mirrorlog.producers.nbd.native import build_libraries
from mirrorlog.producers.nbd.nbdkit_process import (
    NbdkitProcess,
    TlsMode,
    TlsOptions,
)
from mirrorlog.producers.nbd.relay import allocation_extents
from mirrorlog.simulation.memory_devices import PAGE_BYTES, MemoryDevice

# pages with data | first page and count of the request | extents in pages: d data, h hole
RANGES = """
          | 0 8 | h0-8
0 1 5     | 0 8 | d0-2 h2-5 d5-6 h6-8
0 1 5     | 1 5 | d1-2 h2-5 d5-6
3         | 3 1 | d3-4
7         | 0 8 | h0-7 d7-8
0 1 2     | 4 2 | h4-6
"""


@pytest.mark.parametrize("case", RANGES.strip("\n").splitlines())
def test_extents_cover_the_range_without_gaps(case: str) -> None:
    pages, asked, wanted = (part.split() for part in case.split("|"))
    device = MemoryDevice(8 * PAGE_BYTES)
    for page in pages:
        device.pwrite(int(page) * PAGE_BYTES, b"x" * PAGE_BYTES)
    offset, length = (int(number) * PAGE_BYTES for number in asked)
    extents = [
        f"{'h' if kind else 'd'}{start // PAGE_BYTES}-{(start + size) // PAGE_BYTES}"
        for start, size, kind in allocation_extents(device, offset, length)
    ]
    assert extents == wanted


def test_addresses_have_uris_that_clients_read() -> None:
    assert NbdAddress(Path("/run/a b.sock")).uri(tls=False) == "nbd+unix:///?socket=/run/a%20b.sock"
    assert NbdAddress(None, "::1", 7).uri(tls=True) == "nbds://[::1]:7"
    psk = TlsOptions(TlsMode.REQUIRE, psk=Path("/keys"), verify_peer=True)
    assert psk.options() == ["--tls=require", "--tls-psk=/keys", "--tls-verify-peer"]


def test_only_the_socket_of_a_dead_server_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        server.listen()
        with pytest.raises(BadUse, match="another server listens"):
            remove_stale_socket(path)
    remove_stale_socket(path)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(BadUse, match="isn't a socket"):
        remove_stale_socket(path)
    with pytest.raises(BadUse, match="107 bytes"):
        remove_stale_socket(Path("/" + "x" * 107))


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed")
def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nbdkit").symlink_to(str(shutil.which("nbdkit")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadUse, match=r"no C compiler.*apt install"):
        build_libraries(tmp_path / "cache")


# nbdkit writes its pid file before a plugin's after_fork, in which the plugin `nbd` connects.
SLOW_PLUGIN = """#!/bin/sh
cd "${0%/*}"
case "$1" in
  after_fork) sleep 0.3; [ ! -e refuses ] || { echo "no server" >&2; exit 1; }; touch connected;;
  get_size) echo 4096;;
  pread) head -c "$3" /dev/zero;;
  *) exit 2;;
esac
"""


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed")
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("is_socket", [True, False])
def test_nbdkit_has_started_when_its_plugin_has(
    tmp_path: Path, is_socket: bool, refuses: bool
) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(SLOW_PLUGIN)
    plugin.chmod(0o755)
    if refuses:
        (tmp_path / "refuses").touch()
    listen = NbdAddress(tmp_path / "s") if is_socket else NbdAddress(port=free_port("127.0.0.1"))
    arguments = ["sh", str(plugin)]
    if refuses:
        with pytest.raises(PartFailed, match="didn't start to serve"):
            NbdkitProcess(arguments, listen, TlsOptions(), tmp_path / "pid")
    else:
        nbdkit = NbdkitProcess(arguments, listen, TlsOptions(), tmp_path / "pid")
        assert (tmp_path / "connected").exists()
        nbdkit.check()
        nbdkit.stop()


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed")
def test_a_start_is_no_failed_client_in_the_eyes_of_the_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["memory", "1M"]
    nbdkit = NbdkitProcess(arguments, NbdAddress(tmp_path / "s"), TlsOptions(), tmp_path / "pid")
    nbdkit.stop()
    assert capfd.readouterr().err == ""
