"""What incrementals of a real recording take: 30 of each kind, for bench_backup.py.

The recording is in the folder that MIRRORLOG_TRACES names, and isn't part of the project. Blocks
are those of 4 KiB of which a write touches a byte.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from backup_points import BLOCK_BYTES, Points

from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.producers.traces import RequestKind, TracedRequest, open_trace

INTERVALS: Final = 30
_RECORDING: Final = Path("cloudphysics") / "cloudPhysicsIO.vscsi"
_VOLUME_BYTES: Final = 33_584_938_496


def recording_path() -> Path | None:
    """Return where the recording is; None if it isn't here."""
    path = Path(os.environ.get("MIRRORLOG_TRACES", "../shared/traces")) / _RECORDING
    return path if path.is_file() else None


class FilledSource:
    """A volume whose bytes are all the same, and not zeros."""

    def pread(self, *, offset: int, length: int) -> bytes:
        """Return bytes."""
        del offset
        return b"\x5a" * length

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Fill the ranges."""
        filled = np.frombuffer(memory, np.uint8)
        for _, length, place in ranges:
            filled[place : place + length] = 0x5A


def recorded_intervals(path: Path, folder: Path) -> dict[str, Any]:
    """Write 30 incrementals of each way to divide the recording, in each layout.

    Return for each way and layout what was stored for each interval, and a summary.
    """
    writes = [
        request for request in open_trace(path).requests() if request.kind is RequestKind.WRITE
    ]
    result: dict[str, Any] = {}
    for way, parts in (("by_time", _by_time(writes)), ("by_count", _by_count(writes))):
        blocks = [changed_blocks(part) for part in parts]
        for layout in ImageLayout:
            rows = list(_stored(folder / f"{way}-{layout}", layout, blocks))
            for row, part in zip(rows, parts, strict=True):
                row["writes"] = len(part)
            result[f"{way}_{layout}"] = {"intervals": rows, **_summary(rows)}
    return result


def changed_blocks(writes: Sequence[TracedRequest]) -> npt.NDArray[np.int64]:
    """Return the blocks that writes touch, each once, ascending."""
    numbers = [
        np.arange(write.offset // BLOCK_BYTES, (write.end - 1) // BLOCK_BYTES + 1)
        for write in writes
    ]
    return np.unique(np.concatenate(numbers))


def _by_time(writes: Sequence[TracedRequest]) -> list[list[TracedRequest]]:
    """Return the writes of 30 equally long parts of the recording, by their recorded times."""
    times = np.array([write.time_us for write in writes])
    edges = np.linspace(times.min(), times.max() + 1, INTERVALS + 1)
    number_of = np.searchsorted(edges, times, "right") - 1
    parts: list[list[TracedRequest]] = [[] for _ in range(INTERVALS)]
    for number, write in zip(number_of.tolist(), writes, strict=True):
        parts[number].append(write)
    return parts


def _by_count(writes: Sequence[TracedRequest]) -> list[list[TracedRequest]]:
    """Return 30 parts of equally many writes."""
    edges = [number * len(writes) // INTERVALS for number in range(INTERVALS + 1)]
    return [list(writes[first:end]) for first, end in itertools.pairwise(edges)]


def _stored(
    folder: Path, layout: ImageLayout, intervals: Sequence[npt.NDArray[np.int64]]
) -> Iterator[dict[str, Any]]:
    """Add a point for each interval to a new repository. Yield what each takes."""
    points = Points(folder, _VOLUME_BYTES, layout)
    points.add(BlockSet(), FilledSource())
    for number, blocks in enumerate(intervals, 1):
        points.add(BlockSet(blocks.tolist()), FilledSource())
        image = points.image(number).stat()
        manifests = points.image(number).parent.glob(f"{points.names[number]}.*.json")
        changed_bytes = len(blocks) * BLOCK_BYTES
        yield {
            "changed_bytes": changed_bytes,
            "changed_runs": int((np.diff(blocks) > 1).sum()) + 1,
            "stored_bytes": image.st_blocks * 512,
            "file_bytes": image.st_size,
            "manifest_bytes": sum(path.stat().st_blocks * 512 for path in manifests),
            "stored_to_changed": round(image.st_blocks * 512 / changed_bytes, 4),
            "length_to_changed": round(image.st_size / changed_bytes, 4),
        }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    changed_bytes = sum(row["changed_bytes"] for row in rows)
    summary: dict[str, Any] = {"changed_bytes": changed_bytes}
    for name, of in (("stored", "stored_bytes"), ("length", "file_bytes")):
        ratios = [row[f"{name}_to_changed"] for row in rows]
        summary[f"{name}_to_changed"] = {
            "together": round(sum(row[of] for row in rows) / changed_bytes, 4),
            "least": min(ratios),
            "median": round(median(ratios), 4),
            "most": max(ratios),
            "within_goal": sum(ratio <= 1.05 for ratio in ratios),
        }
    return summary
