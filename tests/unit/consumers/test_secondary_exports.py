"""A site whose primary and secondary are NBD exports: no untrue claim is made of either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from file_sites import BLOCK
from nbd_servers import Nbdkit, skip_without
from nbd_sites import NbdRig, consistent_rig
from notation import PRIMARY_ID, promotion, volume

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client import nbd_device
from mirrorlog.adapters.nbd_client.nbd_connection import RequestFailed
from mirrorlog.consumers.failover.backing_files import doubt_of
from mirrorlog.consumers.failover.claims import claim_of
from mirrorlog.consumers.failover.held_secondary import HeldSecondary, hold_secondary
from mirrorlog.consumers.kept_exports import KeptExports
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volume_states import apply
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[NbdRig]:
    """A rig whose secondary has gone through two cycles and is consistent."""
    with consistent_rig(tmp_path) as rig:
        yield rig


def test_a_site_continues_where_it_was(rig: NbdRig) -> None:
    rig.start()
    secondary = rig.settle()
    assert secondary.state is SiteState.CONSISTENT and secondary.blocks_copied == 0
    rig.write(4)
    secondary = rig.settle()
    assert (secondary.state, secondary.blocks_copied) == (SiteState.CONSISTENT, 1)
    assert rig.is_equal()


def test_servers_that_were_restarted_are_met_again(rig: NbdRig) -> None:
    for server in rig.servers:
        rig.restart(server)
    rig.write(5)
    secondary = rig.look_again()
    assert secondary.state is SiteState.CONSISTENT and rig.is_equal()


def test_another_secondary_behind_the_same_name_is_found(rig: NbdRig) -> None:
    """The mark lies at the site, so that the contents alone tell."""
    server = rig.secondary_server
    server.kill()
    server.image.write_bytes(bytes(rig.volume.size_bytes))
    server.start()
    rig.clock.now_s += 31
    secondary = rig.run(3)
    assert secondary.state is not SiteState.CONSISTENT
    secondary = rig.look_again()
    assert secondary.state is SiteState.CONSISTENT and rig.is_equal()


def test_nothing_is_claimed_of_a_secondary_that_cannot_be_reached(rig: NbdRig) -> None:
    rig.secondary_server.kill()
    secondary = rig.look_again()
    assert secondary.state is SiteState.STOPPED
    rig.secondary_server.start()
    assert rig.look_again().state is SiteState.CONSISTENT


def test_another_primary_behind_the_same_name_is_found(rig: NbdRig) -> None:
    before = rig.secondary.read_bytes()
    server = rig.primary_server
    server.kill()
    server.image.write_bytes(b"?" * rig.volume.size_bytes)
    server.start()
    rig.write(3)
    secondary = rig.look_again()
    assert secondary.state is SiteState.STOPPED
    assert "may be another one" in str(secondary.status.reason)
    assert rig.secondary.read_bytes() == before
    server.kill()
    server.image.write_bytes(before)
    server.start()
    rig.write(3)
    assert rig.look_again().state is SiteState.CONSISTENT and rig.is_equal()


def test_a_write_that_the_log_names_only_later_is_no_other_primary(rig: NbdRig) -> None:
    rig.restart(rig.primary_server)
    with rig.primary.open("r+b") as file:  # its command is still on the way
        file.seek(9 * BLOCK)
        file.write(b"!" * BLOCK)
    rig.write(3)
    assert rig.look_again().state is SiteState.STOPPED
    rig.write(9)
    assert rig.look_again().state is SiteState.CONSISTENT and rig.is_equal()


def test_the_primary_is_no_place_for_the_secondary(rig: NbdRig) -> None:
    rig.addresses = SiteAddresses(
        "a", rig.folder, {"v": rig.primary_server.uri}, {"v": rig.primary_server.uri}
    )
    rig.start()
    rig.clock.now_s += 31
    secondary = rig.run(3)
    assert secondary.state is SiteState.STOPPED
    assert "the secondary is the volume's primary" in str(secondary.status.reason)


def test_addresses_of_a_site() -> None:
    addresses = SiteAddresses(
        "a", Path("/f"), {"*": "nbd://one/{volume}", "w": "/w"}, {"w": "nbd://two"}
    )
    v, w = volume(), volume("w", secondaries={"a": "/other"})
    assert (addresses.primary(v), addresses.primary(w)) == ("nbd://one/v", "/w")
    assert (addresses.secondary(v), addresses.secondary(w)) == ("file:///f/v.img", "nbd://two")


@pytest.mark.parametrize(
    ("primaries", "secondaries"),
    [({}, {"*": "nbd://one"}), ({"v": "nbd:///"}, {}), ({"no/volume": "/v"}, {})],
)
def test_wrong_addresses_are_refused(
    primaries: dict[str, str], secondaries: dict[str, str]
) -> None:
    with pytest.raises(BadUse):
        SiteAddresses("a", Path("/f"), primaries, secondaries)


def test_a_server_that_stops_does_not_wait_for_an_idle_site(tmp_path: Path) -> None:
    """nbdkit ends when its clients are gone, and tells them of that only if they ask something."""
    server = Nbdkit(tmp_path)
    skip_without(server)
    FileDevice.create(server.image, BLOCK).close()
    exports = KeptExports(writable=False, ping_s=0.01)
    server.start()
    try:
        assert exports.look("v", server.uri).is_new
        assert not exports.look("v", server.uri).is_new
        server.stop()
        server.start()
        assert exports.look("v", server.uri).is_new
    finally:
        exports.close()
        server.kill()


def test_a_server_that_does_not_answer_holds_up_other_volumes_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, attempts = ManualClock(), 0

    def connect(*_: object, **__: object) -> None:
        nonlocal attempts
        attempts += 1
        clock.now_s += 10
        raise RequestFailed("the server doesn't answer", 0, is_lost=True)

    monkeypatch.setattr(nbd_device, "NbdConnection", connect)
    exports = KeptExports(writable=False, clock=clock)
    for volume_name in ("a", "b", "a"):
        with pytest.raises(DeviceFailed, match="doesn't answer"):
            exports.look(volume_name, f"nbd://afar/{volume_name}")
    assert attempts == 1
    with pytest.raises(DeviceFailed):
        exports.look("a", "nbd://elsewhere/a")
    clock.now_s += 100
    with pytest.raises(DeviceFailed):
        exports.look("a", "nbd://afar/a")
    assert attempts == 3


# The file behind an export takes the primary's place.


def held(rig: NbdRig, *, name: str = "") -> AbstractContextManager[HeldSecondary]:
    """Hold the file behind the secondary's export, or another address, as `promote` does."""
    settings = Settings(
        site_secondaries={"v": name or rig.secondary.as_uri()}, state_dir=rig.folder / "state"
    )
    return hold_secondary("a", rig.folder, rig.volume, settings, patience_s=0)


def doubt(rig: NbdRig, held: HeldSecondary) -> str | None:
    assert held.doubt is None and held.saved is not None and held.differing is not None
    return doubt_of(held.saved, held.differing, rig.volume, rig.site_log(), rig.log.through)


def test_the_file_behind_an_export_is_what_its_site_says_of_the_export(rig: NbdRig) -> None:
    with pytest.raises(BadUse, match="doesn't let go"), held(rig):
        pass
    rig.stop()
    with pytest.raises(BadUse, match="can't be promoted as one"), held(rig, name="nbd://h/v"):
        pass
    with held(rig) as secondary:
        assert doubt(rig, secondary) is None
        claim = claim_of(secondary.saved, rig.volume, rig.site_log(), doubt=None)
        assert claim.consistent_position is not None and claim.parted_position is not None
        described = apply(rig.volume, promotion("a"), rig.log.through + 1)
        promoted = replace(described, primary=rig.secondary.as_uri())
        assert secondary.become_primary(promoted)
        assert not secondary.become_primary(promoted)
        assert promoted.primary_id == PRIMARY_ID and secondary.is_marked_for(promoted)
    assert not (rig.folder / "marks" / "v.json").exists()


def test_another_file_than_that_behind_the_export_is_not_taken_for_it(rig: NbdRig) -> None:
    rig.stop()
    rig.secondary.write_bytes(bytes(rig.volume.size_bytes))
    with held(rig) as secondary:
        assert "isn't the one behind the export" in str(doubt(rig, secondary))


def test_a_promotion_keeps_the_site_off_its_export(rig: NbdRig) -> None:
    rig.stop()
    with held(rig):
        rig.start()
        secondary = rig.run(3)
        assert secondary.state is SiteState.STOPPED
        assert "another process uses this secondary" in str(secondary.status.reason)
    assert rig.look_again().state is SiteState.CONSISTENT and rig.is_equal()
