"""31 points over a real recording: each restores byte for byte.

Each sector of 512 bytes says its number and which write of the recording it is from, so that a
block of another place or of another time shows. What a point must hold follows from the recording
alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from file_images import run_tool
from kept_points import BLOCK, KeptPoints

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.producers.traces import RequestKind, TracedRequest, open_trace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.disk,
    pytest.mark.traces,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img isn't installed"),
]

SIZE: Final = 33_584_938_496
SECTOR: Final = 512
POINTS: Final = 31
SECTORS_AT_ONCE: Final = 8192
Numbers = npt.NDArray[np.int64]


def sector_bytes(sectors: Numbers, versions: Numbers) -> npt.NDArray[np.int64]:
    """Return what sectors hold whose last write was number `versions`, 0 for none: a row each."""
    rows = np.empty((len(sectors), SECTOR // 16, 2), np.int64)
    rows[:, :, 0] = np.where(versions, sectors + 1, 0)[:, None]
    rows[:, :, 1] = versions[:, None]
    return rows


class RecordedVolume:
    """The sectors of all blocks that the recording ever writes, and the last write of each."""

    def __init__(self, writes: Sequence[TracedRequest]) -> None:
        self.sectors = (
            self.blocks_of(writes)[:, None] * (BLOCK // SECTOR) + np.arange(BLOCK // SECTOR)
        ).ravel()
        self.versions = np.zeros(len(self.sectors), np.int64)

    def blocks_of(self, writes: Sequence[TracedRequest]) -> Numbers:
        """Return the blocks that writes touch, ascending."""
        ranges = [np.arange(write.offset // BLOCK, -(-write.end // BLOCK)) for write in writes]
        return np.unique(np.concatenate(ranges))

    def write(self, request: TracedRequest, number: int) -> bytes:
        """Note a write. Return what it writes."""
        assert request.offset % SECTOR == request.length % SECTOR == 0
        first, end = request.offset // SECTOR, request.end // SECTOR
        place = int(np.searchsorted(self.sectors, first))
        self.versions[place : place + end - first] = number
        return sector_bytes(np.arange(first, end), np.full(end - first, number)).tobytes()

    def check(self, reader: ChainReader) -> None:
        """Check that the reader holds all sectors, and nothing anywhere else."""
        assert reader.size_bytes == SIZE
        blocks = self.sectors[:: BLOCK // SECTOR] // (BLOCK // SECTOR)
        for start, length in reader.allocated():
            held = np.arange(start // BLOCK, -(-(start + length) // BLOCK))
            assert np.isin(held, blocks, assume_unique=True).all(), (start, length)
        for first in range(0, len(self.sectors), SECTORS_AT_ONCE):
            sectors = self.sectors[first : first + SECTORS_AT_ONCE]
            expected = sector_bytes(sectors, self.versions[first : first + SECTORS_AT_ONCE])
            edges = np.flatnonzero(np.diff(sectors, prepend=-2, append=-2) != 1)
            pieces = [
                reader.pread(offset=int(sectors[start]) * SECTOR, length=(end - start) * SECTOR)
                for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            ]
            actual = np.frombuffer(b"".join(pieces), np.int64).reshape(expected.shape)
            wrong = np.flatnonzero((actual != expected).any(axis=(1, 2)))
            assert not len(wrong), (int(sectors[wrong[0]]), len(wrong))


def by_time(writes: Sequence[TracedRequest]) -> list[list[tuple[int, TracedRequest]]]:
    """Return the numbered writes of equally long times, one for each point."""
    first, last = writes[0].time_us, max(write.time_us for write in writes)
    parts: list[list[tuple[int, TracedRequest]]] = [[] for _ in range(POINTS)]
    for number, write in enumerate(writes, 1):
        part = (write.time_us - first) * POINTS // (last - first + 1)
        parts[max(part, 0)].append((number, write))
    return parts


@pytest.mark.parametrize("layout", list(ImageLayout))
def test_each_point_over_a_recording_is_right(
    layout: ImageLayout, recordings: Path, tmp_path: Path
) -> None:
    trace = open_trace(recordings / "cloudphysics/cloudPhysicsIO.vscsi")
    writes = [request for request in trace.requests() if request.kind is RequestKind.WRITE]
    parts = by_time(writes)
    points = KeptPoints(tmp_path / "points", SIZE, layout=layout, max_depth=POINTS)
    written = RecordedVolume(writes)
    with FileDevice.create(tmp_path / "volume", SIZE) as volume:
        for part in parts:
            for number, write in part:
                volume.pwrite(write.offset, written.write(write, number))
            blocks = BlockSet(written.blocks_of([write for _, write in part]).tolist())
            points.add(DeviceReader(volume), blocks, BlockSet())

    expected = RecordedVolume(writes)
    for number, part in enumerate(parts):
        for version, write in part:
            expected.write(write, version)
        run_tool("qemu-img", "check", points.image(number))
        with points.opened(number) as reader:
            assert len(reader.maps) == number + 1
            expected.check(reader)
    comparing = ("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "volume")
    assert "identical" in run_tool(*comparing, points.image(POINTS - 1))

    points.max_depth = 30  # a further point is merged with all others
    with FileDevice(tmp_path / "volume", writable=False) as volume:
        points.add(DeviceReader(volume), BlockSet(), BlockSet())
    with points.opened(POINTS) as reader:
        assert len(reader.maps) == 1
        expected.check(reader)
