"""Reads recordings of block I/O in five formats, and writes mirrorlog's own format.

A recording holds requests without their data. The replay generates the contents of blocks.

- request.py: a request of a recording, and what the readers of all formats share.
- block_events.py: an event of the kernel's block tracer, of which a request has many.
- blkparse.py, mltrace.py, msr.py, tencent.py, vscsi.py: a format each.
- opening.py: detects a file's format, and reads its requests.
- counting.py: sums up a recording.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from mirrorlog.producers.traces.counting import TraceSummary, count_dirty_blocks, summarize_trace
from mirrorlog.producers.traces.mltrace import write_trace
from mirrorlog.producers.traces.opening import AUTO, FORMATS, Trace, open_trace
from mirrorlog.producers.traces.request import RequestKind, TracedRequest

__all__ = [
    "AUTO",
    "FORMATS",
    "RequestKind",
    "Trace",
    "TraceSummary",
    "TracedRequest",
    "count_dirty_blocks",
    "demo_trace_path",
    "open_trace",
    "summarize_trace",
    "write_trace",
]


def demo_trace_path() -> Path:
    """Return the path of the recording that the demo replays.

    It is of ext4, tar and SQLite on a 1 GiB disk (benchmarks/record_demo_trace.py).
    """
    return Path(str(files(__name__) / "demo.mltrace"))
