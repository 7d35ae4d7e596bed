"""`mirrorlog site serve` of a secondary on an NBD server, from the lock to what clients read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from deadlines import wait_until
from nbd_sites import NbdRig, consistent_rig

from mirrorlog.adapters.addresses import open_nbd
from mirrorlog.cli.commands.site_serve import _serve
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.drill_sources import DrillOptions
from mirrorlog.cli.support.output import Output
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed
from mirrorlog.processes.nbd_server import NbdAddress
from mirrorlog.settings import Settings


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[NbdRig]:
    with consistent_rig(tmp_path) as rig:
        yield rig


class Drill:
    """A drill in a thread. ended_by: the error that ended it."""

    def __init__(self, rig: NbdRig, *, is_held: bool) -> None:
        self.listen = NbdAddress(rig.folder / "drills" / "v.sock")
        self.ready, self.stop = Event(), Event()
        self.ended_by: Exception | None = None
        self._options = DrillOptions(
            volume=rig.volume,
            site="a",
            folder=rig.folder,
            address=rig.secondary_server.uri,
            copy_folder=rig.folder / "drills",
            listen=self.listen,
            is_writable=True,
            is_held=is_held,
            force=False,
            wait_s=60,
            end_s=None,
        )
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        call = Invocation(Settings(), Output(json=True), verbose=False)
        try:
            _serve(call, self._options, self.stop.is_set, self.ready.set)
        except DeviceFailed as error:
            self.ended_by = error

    def read(self) -> bytes:
        with open_nbd(self.listen.uri(tls=False), writable=False) as client:
            return bytes(client.pread(offset=0, length=client.size_bytes))

    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self.stop.set()
        self._thread.join()


@contextmanager
def drill(rig: NbdRig, *, is_held: bool) -> Iterator[Drill]:
    """Begin a drill while the site does its rounds, and end it with the block."""
    drill = Drill(rig, is_held=is_held)
    try:
        while not drill.ready.wait(0.01):
            assert not drill.has_ended()
            rig.site.run_once(0)
        yield drill
    finally:
        drill.join()


@pytest.mark.parametrize("is_held", [False, True], ids=["a copy", "held"])
def test_clients_read_one_position_while_the_primary_is_written_to(
    rig: NbdRig, is_held: bool
) -> None:
    before = rig.secondary.read_bytes()
    with drill(rig, is_held=is_held) as served:
        rig.write(3, 11)
        state = rig.settle().state
        assert state is (SiteState.STOPPED if is_held else SiteState.CONSISTENT)
        assert served.read() == before
        with open_nbd(served.listen.uri(tls=False), writable=True) as client:
            client.pwrite(0, b"a client's")
        assert served.read() == b"a client's" + before[10:]
        assert (rig.secondary.read_bytes() == before) is is_held
    assert rig.settle().state is SiteState.CONSISTENT and rig.is_equal()
    assert list((rig.folder / "drills").iterdir()) == []


def test_a_held_export_whose_server_ends_ends_its_drill(rig: NbdRig) -> None:
    with drill(rig, is_held=True) as served:
        rig.restart(rig.secondary_server)
        wait_until(served.has_ended)
    assert "connection to the secondary's export was lost" in str(served.ended_by)
    assert rig.look_again().state is SiteState.CONSISTENT and rig.is_equal()
