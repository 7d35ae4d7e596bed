"""The plan of the demo, and its expected end, read from the recording beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirrorlog.domain.volumes import check_geometry
from mirrorlog.producers.traces import Trace, count_dirty_blocks, open_trace, summarize_trace
from mirrorlog.units import parse_size


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The plan of a demo run.

    block_size: of tracking, in bytes.
    writes, bytes_written: what the recording holds.
    dirty_blocks: how many blocks the recording changes, counted without the tracking log.
    """

    trace: Trace
    block_size: int
    sites: list[str]
    writes: int
    bytes_written: int
    dirty_blocks: int


def make_plan(path: Path, trace_format: str, block_size_text: str, sites: int) -> DemoPlan:
    """Read the whole recording, before anything is made, so that a broken one leaves nothing.

    block_size_text: a size with a unit. sites: how many.
    Errors: BadUse for a block size or a format that doesn't exist, BadInput for a broken recording.
    """
    block_size = parse_size(block_size_text)
    check_geometry(size_bytes=block_size, block_size=block_size)
    trace = open_trace(path, trace_format)
    totals = summarize_trace(trace)
    dirty_blocks = sum(count_dirty_blocks(trace, block_size).values())
    names = [f"site-{chr(ord('a') + number)}" for number in range(sites)]
    return DemoPlan(trace, block_size, names, totals.writes, totals.bytes_written, dirty_blocks)


def differences(result: Mapping[str, Any], plan: DemoPlan) -> str:
    """Return in words how `result` (of stages.play) differs from what the run must end with."""
    texts = [f"{row['site']} isn't identical" for row in result["sites"] if not row["identical"]]
    if result["dirty_blocks"] != plan.dirty_blocks:
        texts.append(
            f"the log names {result['dirty_blocks']} blocks, the trace {plan.dirty_blocks}"
        )
    return "; ".join(texts)
