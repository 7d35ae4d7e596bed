"""Sums up a recording in a pass over it, before or after a replay."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Final

from mirrorlog.producers.traces.opening import Trace
from mirrorlog.producers.traces.request import RequestKind

_UNITE_EVERY: Final = 1 << 20
"""Unite the ranges after this many requests, so that memory grows with blocks, not requests."""


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The counts and sizes of a recording.

    reads, writes, zeroes, discards, flushes: the number of requests by kind.
    bytes_written: the sum of the writes' lengths.
    volumes: the minimum size of each volume in bytes. It is the largest end of all requests to the
    volume, with reads, and 0 for a volume that was only flushed.
    """

    reads: int
    writes: int
    zeroes: int
    discards: int
    flushes: int
    bytes_written: int
    volumes: dict[str, int]


def summarize_trace(trace: Trace) -> TraceSummary:
    """Read the recording once. Raise BadInput if anything in it is malformed."""
    kinds: Counter[RequestKind] = Counter()
    bytes_written = 0
    volumes: dict[str, int] = {}
    for request in trace.records():
        kinds[request.kind] += 1
        if request.kind is RequestKind.WRITE:
            bytes_written += request.length
        volumes[request.volume] = max(volumes.get(request.volume, 0), request.end)
    return TraceSummary(
        reads=kinds[RequestKind.READ],
        writes=kinds[RequestKind.WRITE],
        zeroes=kinds[RequestKind.ZERO],
        discards=kinds[RequestKind.DISCARD],
        flushes=kinds[RequestKind.FLUSH],
        bytes_written=bytes_written,
        volumes=volumes,
    )


def count_dirty_blocks(trace: Trace, block_size: int) -> dict[str, int]:
    """Return the number of blocks with a byte that was written, zeroed or discarded, by volume.

    block_size: in bytes. Volumes without changes are left out.

    The demo compares the tracking log with this. Therefore it shares no code with the log: it uses
    no bitmaps and no arithmetic of extents, only ranges of block numbers, sorted and united.
    """
    ranges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, request in enumerate(trace.requests(), start=1):
        if request.kind is not RequestKind.FLUSH:
            first = request.offset // block_size
            last = (request.offset + request.length - 1) // block_size
            ranges[request.volume].append((first, last))
        if index % _UNITE_EVERY == 0:
            for volume in ranges:
                ranges[volume] = _united(ranges[volume])
    return {
        volume: sum(last - first + 1 for first, last in _united(of_volume))
        for volume, of_volume in ranges.items()
    }


def _united(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same blocks as ranges (first, last) that don't overlap, in order."""
    disjoint: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if disjoint and first <= disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(last, disjoint[-1][1]))
        else:
            disjoint.append((first, last))
    return disjoint
