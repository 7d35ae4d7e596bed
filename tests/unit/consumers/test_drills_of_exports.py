"""A drill of a secondary that is an NBD export: its site keeps off it, and nothing else is it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbd_sites import NbdRig, consistent_rig

from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.consumers.drills import still_secondaries
from mirrorlog.consumers.drills.drill_copy import copy_still
from mirrorlog.consumers.drills.holding import HoldPorts, NotHeld, holding
from mirrorlog.consumers.drills.still_secondaries import look_at_export, open_still_export
from mirrorlog.consumers.failover.held_secondary import hold_secondary
from mirrorlog.consumers.resync.paused_secondaries import PausedSecondaries
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[NbdRig]:
    with consistent_rig(tmp_path) as rig:
        yield rig


def ports(rig: NbdRig, *, site_runs: bool = False) -> HoldPorts:
    """Return the ports of a drill. A site that runs does a round whenever the drill sleeps."""
    uri = parse_nbd_uri(rig.secondary_server.uri)
    return HoldPorts(
        where=str(uri),
        holds=DrillHolds(rig.folder),
        open_still=lambda: open_still_export(rig.folder, rig.volume, uri),
        look=lambda device: look_at_export("a", rig.folder, rig.volume, device),
        clock=ManualClock(look_s=0.1),
        sleep=lambda _: rig.site.run_once(0) if site_runs else None,
    )


def drill_while_writes_go_on(rig: NbdRig) -> None:
    """Hold the export, write to the primary, copy the export, and let the site go on."""
    versions = [rig.primary.read_bytes()]
    rig.write(3)
    versions.append(rig.primary.read_bytes())
    with holding("v", ports(rig, site_runs=True), wait_s=60, force=False) as (held, hold):
        state = rig.site.secondaries["v"].saved
        assert held.position is not None and state is not None
        assert held.position == state.consistent_position
        was = rig.secondary.read_bytes()
        assert was in versions
        rig.write(3, 4)
        rig.settle()
        copy = copy_still(held.device, rig.folder / "drills", on_piece=hold.renew)
        assert copy.path.read_bytes() == was, "it was written to while it was held"
        copy.close()
        assert rig.site.secondaries["v"].state is SiteState.STOPPED
        assert "a drill holds it" in str(rig.site.secondaries["v"].status.reason)
    assert rig.settle().state is SiteState.CONSISTENT and rig.is_equal()


def test_a_site_leaves_an_export_alone_while_a_drill_holds_it(rig: NbdRig) -> None:
    drill_while_writes_go_on(rig)


def test_a_drill_that_takes_no_lock_is_found_out(
    rig: NbdRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still_secondaries, "lock_export", lambda *_: os.open("/dev/null", 0))
    monkeypatch.setattr(PausedSecondaries, "covers", lambda *_: False)
    with pytest.raises(AssertionError, match="written to while it was held"):
        drill_while_writes_go_on(rig)


def test_a_drill_without_its_site_holds_the_export(rig: NbdRig) -> None:
    rig.stop()
    with holding("v", ports(rig), wait_s=1, force=False) as (held, _):
        assert bytes(held.device.pread(offset=0, length=held.device.size_bytes)) == (
            rig.primary.read_bytes()
        )


@pytest.mark.parametrize("how", ["another export", "an older one", "no cycle has ended"])
def test_what_may_not_be_the_secondary_is_not_served(rig: NbdRig, how: str) -> None:
    rig.stop()
    if how == "another export":
        rig.secondary.write_bytes(bytes(rig.volume.size_bytes))
        why = "samples of what the site wrote aren't in this export"
    elif how == "an older one":
        with rig.secondary.open("r+b") as file:
            file.seek(9 * 4096)
            file.write(bytes(4096))
        why = "1 of [0-9]+ samples"
    else:
        (rig.folder / "marks" / "v.json").unlink()
        why = "the secondary's mark is gone"
    with (
        pytest.raises(NotHeld, match=why),
        holding("v", ports(rig), wait_s=2, force=False),
    ):
        pass


def test_a_drill_and_a_promotion_keep_each_other_off(rig: NbdRig) -> None:
    rig.stop()
    settings = Settings(site_secondaries={"v": str(rig.secondary)})
    with (
        holding("v", ports(rig), wait_s=1, force=False),
        pytest.raises(BadUse, match="doesn't let go of it"),
        hold_secondary("a", rig.folder, rig.volume, settings, patience_s=0),
    ):
        pass


def test_a_server_that_ends_ends_the_copy(rig: NbdRig) -> None:
    rig.stop()
    with holding("v", ports(rig), wait_s=1, force=False) as (held, _):
        rig.restart(rig.secondary_server)
        with pytest.raises(DeviceFailed, match=r"lost|ended"):
            copy_still(held.device, rig.folder / "drills")
    assert list((rig.folder / "drills").iterdir()) == []
