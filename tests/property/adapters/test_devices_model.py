"""Every device behaves like a bytearray under random operations."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.simulation.memory_devices import MemoryDevice

SIZE = 19_968
places = st.integers(0, SIZE) | st.sampled_from([0, 4096, 8192, 16_384, SIZE])
operations = st.lists(
    st.tuples(st.sampled_from(["pwrite", "zero", "flush"]), places, places), max_size=12
)


def run(device: BlockDevice, model: bytearray, operation: tuple[str, int, int], fill: int) -> None:
    name, *ends = operation
    start, end = sorted(ends)
    if name == "flush":
        device.flush()
    elif name == "zero":
        device.zero(offset=start, length=end - start)
        model[start:end] = bytes(end - start)
    else:
        device.pwrite(start, bytes([fill]) * (end - start))
        model[start:end] = bytes([fill]) * (end - start)


def check(device: BlockDevice, model: bytearray, start: int, end: int) -> None:
    assert device.pread(offset=start, length=end - start) == model[start:end]
    assert device.pread(offset=0, length=SIZE) == model
    end_of_range = 0
    for offset, length in device.allocated():
        assert model.count(0, end_of_range, offset) == offset - end_of_range
        assert (offset > end_of_range or end_of_range == 0) and 0 < length <= SIZE - offset
        end_of_range = offset + length
    assert model.count(0, end_of_range, SIZE) == SIZE - end_of_range


def create(kind: str, path: Path) -> BlockDevice:
    if kind == "memory":
        return MemoryDevice(SIZE)
    try:
        return {"file": FileDevice, "direct": DirectDevice}[kind].create(path, SIZE)
    except BadUse as error:
        return pytest.skip(str(error))


@pytest.mark.parametrize("kind", ["file", "direct", "memory"])
@settings(max_examples=100, deadline=None)
@given(steps=operations, ends=st.tuples(places, places))
def test_a_device_is_a_bytearray(
    kind: str, steps: list[tuple[str, int, int]], ends: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = create(kind, Path(folder) / "v")
        model = bytearray(SIZE)
        with device:
            for fill, step in enumerate(steps, start=1):
                run(device, model, step, fill)
            check(device, model, *sorted(ends))


@settings(max_examples=100, deadline=None)
@given(steps=operations, seed=st.none() | st.integers())
def test_a_crash_leaves_each_byte_in_a_version_since_the_last_flush(
    steps: list[tuple[str, int, int]], seed: int | None
) -> None:
    device = MemoryDevice(SIZE)
    model = bytearray(SIZE)
    versions = [bytes(model)]
    for fill, step in enumerate(steps, start=1):
        run(device, model, step, fill)
        versions = [bytes(model)] if step[0] == "flush" else [*versions, bytes(model)]
    device.crash(None if seed is None else Random(seed))
    content = device.reopen().pread(offset=0, length=SIZE)
    if seed is None:
        assert content == versions[0]
    assert all(
        byte in candidates
        for byte, candidates in zip(content, zip(*versions, strict=True), strict=True)
    )
