"""A host that hangs holds up the site's other volumes once, and not for each snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from notation import volume

from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri, parse_nbd_uri
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers import site_primaries
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.domain.snapshots import LiveExport
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.manual_clock import ManualClock

URI = "nbd://host.example/v"


class Live:
    """The live export, whose connection lasts."""

    uri = parse_nbd_uri(URI)


class Rig(SitePrimaries):
    """Primaries whose live exports answer, and whose hosts take `answer_s` to fail a snapshot."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        addresses = SiteAddresses("b", folder, {"*": URI}, {})
        super().__init__(addresses, PrimaryMarkFiles(folder), self.clock)
        self.answer_s, self.asked = 3.0, list[float]()
        monkeypatch.setattr(self._exports, "open", lambda *_: Live())
        monkeypatch.setattr(site_primaries, "NbdDevice", self.connect)

    def _served(self, volume: Volume) -> LiveExport | None:
        return LiveExport(volume=volume.volume, session="session")

    def connect(self, uri: NbdUri, *, connect_s: float, **_: Any) -> None:
        self.asked.append(connect_s)
        self.clock.now_s += min(connect_s, self.answer_s)
        raise DeviceFailed("connecting failed", where=f"{uri}, offset 0")

    def fail(self) -> str:
        with pytest.raises(DeviceFailed) as failed:
            self.take_snapshot(volume())
        return failed.value.what


def test_a_hanging_host_is_asked_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, monkeypatch)
    assert rig.fail() == "connecting failed"
    for _ in range(5):
        assert "didn't answer an earlier question" in rig.fail()
    assert rig.asked == [3.0]
    rig.clock.now_s += 61
    assert rig.fail() == "connecting failed"


def test_a_host_that_refuses_at_once_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, monkeypatch)
    rig.answer_s = 0.1
    assert {rig.fail() for _ in range(3)} == {"connecting failed"}
    assert len(rig.asked) == 3


def test_a_hanging_host_is_asked_for_those_of_a_group_no_longer_than_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, monkeypatch)
    with pytest.raises(DeviceFailed, match="connecting failed"):
        rig.take_snapshots([volume()])
    with pytest.raises(DeviceFailed, match="didn't answer an earlier question"):
        rig.take_snapshots([volume()])
    assert rig.asked == [3.0]
