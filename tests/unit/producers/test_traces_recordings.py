"""The readers and the counts, compared with the known figures of real recordings."""

from __future__ import annotations

import pytest
from import_cases import blocks_of
from notation import volume

from mirrorlog.producers.importers import AddressRange, blkparse_source
from mirrorlog.producers.traces import (
    count_dirty_blocks,
    demo_trace_path,
    open_trace,
    summarize_trace,
)

# file, format, volumes, (reads, writes, flushes), bytes written, bytes written at least once,
# largest volume, dirty blocks of 4 KiB, 64 KiB and 1 MiB
KNOWN = [
    (
        *("cloudphysics/cloudPhysicsIO.vscsi", "vscsi", 1, (46_974, 66_898, 0)),
        *(2_408_565_760, 844_924_928, 33_584_938_496, (208_696, 14_711, 1_854)),
    ),
    (
        *("tencent/cloud_storage-sample.bz2", "tencent", 2_038, (24_521, 25_479, 0)),
        *(871_636_992, 851_735_040, 1_669_048_770_560, (209_875, 25_152, 11_494)),
    ),
    (
        *("msr/msr-cambridge1-sample.csv", "msr", 1, (508, 492, 0)),
        *(3_580_928, 1_904_128, 13_575_029_248, (475, 140, 92)),
    ),
    (
        # There are 23 flushes, and one after each of the 21 writes with FUA.
        *("blkparse/nvme0n1.blktrace.txt", "blkparse", 1, (0, 225, 23 + 21)),
        *(1_181_696, 1_095_680, 391_002_484_736, (268, 30, 13)),
    ),
]


@pytest.mark.traces
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known[1])
def test_known_figures(recordings, known):
    file, trace_format, volumes, kinds, bytes_written, bytes_unique, largest, dirty = known
    trace = open_trace(recordings / file)
    summary = summarize_trace(trace)
    assert trace.format == trace_format
    assert (summary.reads, summary.writes, summary.flushes) == kinds
    assert summary.bytes_written == bytes_written
    assert len(summary.volumes) == volumes
    assert max(summary.volumes.values()) == largest
    counts = [sum(count_dirty_blocks(trace, size).values()) for size in (1, 4096, 65536, 1 << 20)]
    assert counts == [bytes_unique, *dirty]


@pytest.mark.traces
def test_an_import_of_blkparses_text_names_the_blocks_of_its_writes_once(recordings):
    """Its 1,364 events remap, queue, merge, issue and complete 225 writes, with flushes between."""
    size_bytes = 400 << 30
    volume_range = AddressRange(offset=0, length=size_bytes)
    source = blkparse_source(recordings / "blkparse/nvme0n1.blktrace.txt", volume_range)
    dirty, _ = blocks_of(source, volume(size_bytes=size_bytes))
    assert (len(list(source.changes())), len(dirty), source.warnings) == (225, 268, [])


def test_the_recording_in_the_package_is_fit_for_the_demo():
    """It is small, and has changes of every kind, flushes and rewritten blocks on a sparse disk."""
    path = demo_trace_path()
    trace = open_trace(path)
    summary = summarize_trace(trace)
    dirty_bytes = 4096 * count_dirty_blocks(trace, 4096)["demo"]
    assert path.stat().st_size <= 300_000
    assert trace.format == "mirrorlog"
    assert summary.volumes == {"demo": 1 << 30}
    assert summary.writes > 2_000
    assert min(summary.zeroes, summary.discards, summary.flushes) > 0
    assert summary.bytes_written <= 150 << 20
    assert dirty_bytes < summary.bytes_written
