"""Recordings of block I/O: reading five formats, and writing mirrorlog's own.

A recording holds requests and no payload; the replay makes block contents itself.
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
    """The recording that the demo replays: ext4, tar and SQLite on a 1 GiB disk (benchmarks/record_demo_trace.py)."""
    return Path(str(files(__name__) / "demo.mltrace"))
