"""Secondaries that are created together: one that can't be created stops no other."""

from __future__ import annotations

from collections.abc import Sequence

from notation import volume

from mirrorlog.consumers.resync.new_secondaries import create_secondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_secondaries import MemorySecondaries


class Secondaries(MemorySecondaries):
    """Secondaries of which that of volume `bad` can't be created."""

    def create_all(self, volumes: Sequence[Volume]) -> None:
        if any(described.volume == "bad" for described in volumes):
            raise DeviceFailed("creating failed: No space left on device", where="bad.img")
        super().create_all(volumes)


def test_one_that_cannot_be_created_stops_no_other() -> None:
    devices = Secondaries({}, {})
    missing = [Secondary(volume(name)) for name in ("a", "bad", "c")]
    failed = create_secondaries(devices, missing)
    assert [(secondary.volume.volume, error.where) for secondary, error in failed] == [
        ("bad", "bad.img")
    ]
    assert sorted(devices.devices) == ["a", "c"]
    assert create_secondaries(devices, []) == []
