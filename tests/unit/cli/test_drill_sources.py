"""What a drill serves: a secondary that is an NBD export, passed on with what clients may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from nbd_servers import Nbdkit, skip_without, write_certificates

from mirrorlog.adapters.addresses import open_nbd
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.cli.support.drill_sources import _checking, nbdkit_client
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.processes.nbd_server import NbdAddress
from mirrorlog.producers.nbd.nbdkit_process import NbdkitProcess, TlsOptions

CONTENT = b"as it was" + bytes(8192 - 9)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nbdkit]:
    server = Nbdkit(tmp_path)
    skip_without(server)
    server.image.write_bytes(CONTENT)
    server.start()
    yield server
    server.kill()


def pass_on(folder: Path, *arguments: str, read_only: bool) -> NbdkitProcess:
    return NbdkitProcess(
        arguments,
        NbdAddress(folder / "drill"),
        TlsOptions(),
        folder / "drill-pid",
        read_only=read_only,
    )


def test_what_clients_write_is_thrown_away(server: Nbdkit, tmp_path: Path) -> None:
    plugin = nbdkit_client(parse_nbd_uri(server.uri))
    drill = pass_on(tmp_path, "--filter=cow", *plugin, read_only=False)
    uri = NbdAddress(tmp_path / "drill").uri(tls=False)
    with open_nbd(uri, writable=True) as client:
        client.pwrite(0, b"a client's")
    with open_nbd(uri, writable=False) as client:
        assert bytes(client.pread(offset=0, length=10)) == b"a client's"
    drill.stop()
    assert server.image.read_bytes() == CONTENT


def test_nobody_writes_to_one_that_is_for_reading(server: Nbdkit, tmp_path: Path) -> None:
    drill = pass_on(tmp_path, *nbdkit_client(parse_nbd_uri(server.uri)), read_only=True)
    uri = NbdAddress(tmp_path / "drill").uri(tls=False)
    with pytest.raises(DeviceFailed, match="for reading only"):
        open_nbd(uri, writable=True)
    with open_nbd(uri, writable=False) as client:
        assert bytes(client.pread(offset=0, length=9)) == b"as it was"
    drill.stop()


def test_a_drill_ends_with_the_server_of_its_secondary(server: Nbdkit) -> None:
    with open_nbd(server.uri, writable=False, reconnects=False) as device:
        check = _checking(device)
        check()
        server.kill()
        server.start()
        with pytest.raises(DeviceFailed, match="connection to the secondary's export was lost"):
            check()


def test_one_is_passed_on_that_is_reached_by_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    served = write_certificates(tmp_path / "served", authority, "server", "localhost")
    trusted = write_certificates(tmp_path / "trusted", authority, "client", "site.example")
    server = Nbdkit(tmp_path, "--tls=require", f"--tls-certificates={served}", "--tls-verify-peer")
    skip_without(server)
    server.image.write_bytes(CONTENT)
    server.start()
    # The server's certificate names no socket, so nothing can be checked by its name.
    uri = f"nbds+unix:///?socket={server.socket}&tls-certificates={trusted}&tls-verify-peer=false"
    try:
        drill = pass_on(tmp_path, *nbdkit_client(parse_nbd_uri(uri)), read_only=True)
        with open_nbd(NbdAddress(tmp_path / "drill").uri(tls=False), writable=False) as client:
            assert bytes(client.pread(offset=0, length=9)) == b"as it was"
        drill.stop()
    finally:
        server.kill()


def test_a_name_for_the_certificate_needs_a_copy() -> None:
    with pytest.raises(BadUse, match="Leave --hold out"):
        nbdkit_client(parse_nbd_uri("nbds://h/v?tls-hostname=other"))
