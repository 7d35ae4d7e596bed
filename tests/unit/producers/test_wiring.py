"""What wiring.py decides by itself: a host's default name, and which volumes are newly created."""

from __future__ import annotations

import pytest

from mirrorlog.domain.volumes import Volume
from mirrorlog.producers.wiring import default_host_name, open_request
from mirrorlog.simulation.memory_devices import MemoryDevices

SIZE = 64 << 10


@pytest.mark.parametrize(
    ("initially_zeroed", "has_data", "newly_created", "expected"),
    [
        (True, False, False, True),
        (True, True, False, False),
        (False, False, False, False),
        (True, True, True, True),
    ],
    ids=["empty primary", "primary with data", "unknown past", "the caller created it"],
)
def test_an_empty_primary_makes_a_volume_newly_created(
    initially_zeroed: bool, has_data: bool, newly_created: bool, expected: bool
) -> None:
    devices = MemoryDevices()
    devices.create("memory://v", SIZE)
    volume = Volume(
        volume="v",
        generation="g",
        size_bytes=SIZE,
        block_size=4096,
        partition=0,
        origin_position=-1,
        initially_zeroed=initially_zeroed,
        primary="memory://v",
    )
    with devices("memory://v", writable=True) as device:
        if has_data:
            device.pwrite(offset=4096, data=b"x")
        request = open_request(volume, device, newly_created=newly_created, take_over=["s"])
    assert request.newly_created is expected
    assert (request.volume, request.take_over) == (volume, ["s"])


def test_all_programs_on_a_machine_use_one_host_name_for_a_volume() -> None:
    assert default_host_name("vol1") == "host-vol1"
