"""A host that hangs holds up the site's other volumes once, and not for each snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from deadlines import DEADLINE_S
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


@dataclass
class Live:
    """The live export, whose connection lasts."""

    uri: NbdUri


class Rig(SitePrimaries):
    """Primaries whose live exports answer, and whose hosts take `answer_s` to fail a snapshot."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        addresses = SiteAddresses("b", folder, {"*": URI}, {})
        super().__init__(addresses, PrimaryMarkFiles(folder), self.clock)
        self.answer_s, self.asked = 3.0, list[float]()
        monkeypatch.setattr(self._exports, "open", lambda *_: Live(parse_nbd_uri(URI)))
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


def test_a_hanging_host_is_asked_again_soon_and_then_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, monkeypatch)
    for count, wait_s in enumerate((3, 6, 12, 24, 48, 60, 60), 1):
        assert rig.fail() == "connecting failed"
        for _ in range(5):
            assert "didn't answer an earlier question" in rig.fail()
        assert rig.asked == [3.0] * count
        rig.clock.now_s += wait_s - 0.1
        assert "didn't answer an earlier question" in rig.fail()
        rig.clock.now_s += 0.2


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


def test_members_of_a_group_behind_one_hanging_host_count_as_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, monkeypatch)
    volumes, together = [volume(name) for name in "uvw"], Barrier(3)

    def connect(uri: NbdUri, **_: Any) -> None:
        together.wait(DEADLINE_S)  # all threads have asked
        rig.clock.now_s = 3.0
        raise DeviceFailed("connecting failed", where=f"{uri}, offset 0")

    with monkeypatch.context() as patched:
        patched.setattr(site_primaries, "NbdDevice", connect)
        with pytest.raises(DeviceFailed, match="connecting failed"):
            rig.take_snapshots(volumes)
    rig.clock.now_s = 6.1
    assert rig.fail() == "connecting failed"


def test_no_host_of_a_group_is_held_while_another_one_isnt_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, monkeypatch)
    rig.fail()
    uris = {"w": parse_nbd_uri("nbd://other.example/w"), "v": parse_nbd_uri(URI)}
    monkeypatch.setattr(rig._exports, "open", lambda name, _: Live(uris[name]))
    with pytest.raises(DeviceFailed, match="didn't answer an earlier question"):
        rig.take_snapshots([volume("w"), volume("v")])
    assert rig.asked == [3.0]
