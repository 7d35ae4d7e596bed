"""What a recording amounts to, found out by passes of their own before and after a replay."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Final

from mirrorlog.producers.traces.opening import Trace
from mirrorlog.producers.traces.request import RequestKind

_UNITE_EVERY: Final = 1 << 20
"""Requests after which the ranges are united, so that what is kept grows with the blocks and not with the requests."""


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The requests by kind, the bytes of the writes, and for each volume the size in bytes that it must have at least.

    That size is the largest end of all its requests, reads included; 0 for a volume that was only flushed.
    """

    reads: int
    writes: int
    zeroes: int
    discards: int
    flushes: int
    bytes_written: int
    volumes: dict[str, int]


def summarize_trace(trace: Trace) -> TraceSummary:
    """Read the whole recording once. BadInput where anything in it is broken."""
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
    """How many blocks of `block_size` bytes have a byte that was written, zeroed or discarded; for each changed volume.

    The demo holds the tracking log against this. It therefore shares nothing with the way in which the log is made: no
    bitmap and none of the arithmetic of extents, only ranges of block numbers, sorted and united.
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
        volume: sum(last - first + 1 for first, last in _united(those))
        for volume, those in ranges.items()
    }


def _united(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same blocks as ranges (first, last) that don't overlap, in order."""
    apart: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if apart and first <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(last, apart[-1][1]))
        else:
            apart.append((first, last))
    return apart
