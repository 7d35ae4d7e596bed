"""A volume as a file does what a file of that size in memory does, except that it doesn't grow."""

from __future__ import annotations

import errno
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.ports.devices import Data
from mirrorlog.producers.writes.volume_file import VolumeFile
from mirrorlog.simulation.memory_devices import MemoryDevice

SIZE = 1000
STEPS = st.lists(
    st.tuples(st.just("read"), st.integers(0, 1200))
    | st.tuples(st.just("write"), st.integers(0, 300))
    | st.tuples(st.sampled_from(["seek", "end", "forward"]), st.integers(-1100, 1100)),
    max_size=20,
)


class MemoryVolume:
    """A volume in memory that counts its flushes."""

    size_bytes = SIZE

    def __init__(self) -> None:
        self.device, self.flushes = MemoryDevice(SIZE), 0

    def pread(self, length: int, offset: int) -> Data:
        return self.device.pread(offset=offset, length=length)

    def pwrite(self, data: Data, offset: int) -> None:
        self.device.pwrite(offset, data)

    def flush(self) -> None:
        self.flushes += 1


def apply(file: io.RawIOBase | io.BytesIO, step: tuple[str, int]) -> object:
    name, number = step
    if name == "read":
        return file.read(number)
    if name == "write":
        room = max(SIZE - file.tell(), 0)
        return file.write(
            b"w" * number if isinstance(file, VolumeFile) else b"w" * min(number, room)
        )
    whence = {"seek": io.SEEK_SET, "forward": io.SEEK_CUR, "end": io.SEEK_END}[name]
    return file.seek(number, whence)


@given(STEPS)
def test_a_volume_file_reads_writes_and_seeks_as_a_file_does(steps: list[tuple[str, int]]) -> None:
    file, model = VolumeFile(MemoryVolume()), io.BytesIO(bytes(SIZE))
    for step in steps:
        before = model.tell()
        base = {"forward": before, "end": SIZE}.get(step[0], 0)
        if step[0] in ("seek", "forward", "end") and base + step[1] < 0:
            with pytest.raises(OSError, match="Invalid"):
                apply(file, step)
        elif step[0] == "write" and step[1] and before >= SIZE:
            with pytest.raises(OSError) as full:
                apply(file, step)
            assert full.value.errno == errno.ENOSPC
        else:
            assert apply(file, step) == apply(model, step)
        assert file.tell() == model.tell()
    file.seek(0)
    assert file.readall() == model.getvalue()


def test_a_volume_file_flushes_what_it_wrote_and_carries_a_buffer() -> None:
    volume = MemoryVolume()
    with VolumeFile(volume) as reading:
        reading.read(10)
    assert volume.flushes == 0
    with io.BufferedRandom(VolumeFile(volume)) as file:
        file.write(b"abc")
        file.seek(1)
        assert file.read(2) == b"bc"
    assert (volume.flushes, volume.pread(4, 0)) == (1, b"abc\0")
    with pytest.raises(ValueError, match="closed"):
        reading.write(b"x")
