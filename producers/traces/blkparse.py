"""blkparse's default text (blkparse(1), "Default output"): one event in a line, then a summary.

    major,minor cpu sequence seconds.nanoseconds pid action rwbs [sector + sectors] [process]

Only `Q` events are read. Each request is queued once, while `A` remaps, merges, dispatches and
completions name it again. In rwbs (blk_fill_rwbs in the kernel's blktrace.c) R is a read, W a write
and D a discard. An F before that letter is a preflush, and an F after it is FUA. A line without a
sector moves no data; it is a flush if its rwbs has W or F.

mirrorlog has flushes and no FUA. A preflush becomes a flush before the write, and FUA one after it.
The kernel does the same for a disk without FUA (Documentation/block/writeback_cache_control.rst).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mirrorlog.producers.traces.request import (
    SECTOR_BYTES,
    MalformedRecord,
    RequestKind,
    TracedRequest,
    TraceFormat,
    flush_request,
    matches_any_line,
    parse_number,
    quoted,
    transfer,
)

_EVENT: Final = re.compile(
    rb"\s*(\d{1,10}),(\d{1,10})\s+\d+\s+\d+\s+(\d+)\.(\d{9})\s+\d+"
    rb"\s+([A-Za-z]{1,2})\s+([A-Z]+)(?:\s+(.*))?"
)
_NOTE: Final = re.compile(rb"\s*\d+,\d+\s+\d+\s+\d+\s+\d+\.\d{9}\s+\d+\s+m\s+N\s.*")
_SECTORS: Final = re.compile(rb"(\d+) \+ (\d+)(?: \[.*)?")
_RWBS: Final = re.compile(rb"(F?)([A-Z])([A-Z]*)")
_SUMMARY: Final = re.compile(
    rb"#.*|(?:CPU\d+|Total) \(.*\):"
    rb"|\s*(?:Reads?|Writes?|PC|IO|Timer|Allocations|Throughput|Events|Skips|Input file)\b.*"
)
_KINDS: Final = {b"R": RequestKind.READ, b"W": RequestKind.WRITE, b"D": RequestKind.DISCARD}


def _read(lines: Iterator[bytes], _volume: str) -> Iterator[TracedRequest]:
    for line in lines:
        event = _EVENT.fullmatch(line)
        if event is None:
            if not _SUMMARY.fullmatch(line) and not _NOTE.fullmatch(line):
                raise MalformedRecord(
                    f"{quoted(line)} is neither an event of blkparse nor part of its summary"
                )
        elif event[5] == b"Q":
            major, minor, seconds, nanoseconds, _, rwbs, rest = event.groups()
            volume = f"{int(major)}-{int(minor)}"
            time_us = parse_number(seconds, "time") * 1_000_000 + int(nanoseconds) // 1000
            yield from _queued(volume, time_us, rwbs, rest or b"")


def _queued(volume: str, time_us: int, rwbs: bytes, rest: bytes) -> Iterator[TracedRequest]:
    """Yield the requests of a Q event: a transfer with the flushes around it, or a flush alone."""
    flush = flush_request(volume, time_us)
    flags = _RWBS.fullmatch(rwbs)
    sectors = _SECTORS.fullmatch(rest)
    if flags is None:
        raise MalformedRecord(f"rwbs {quoted(rwbs)} names no operation")
    if sectors is None:
        if rest and not rest.startswith(b"["):
            raise MalformedRecord(f"{quoted(rest)} isn't a sector and a count")
        if b"D" in rwbs:
            raise MalformedRecord(f"a discard ({quoted(rwbs)}) without a sector")
        if b"W" in rwbs or b"F" in rwbs:
            yield flush
        return
    preflush, operation, suffix = flags.groups()
    if operation not in _KINDS:
        raise MalformedRecord(f"rwbs {quoted(rwbs)} is neither a read, a write nor a discard")
    if preflush:
        yield flush
    offset, length = (parse_number(count, "sector") * SECTOR_BYTES for count in sectors.groups())
    yield from transfer(volume, _KINDS[operation], offset=offset, length=length, time_us=time_us)
    if b"F" in suffix:
        yield flush


FORMAT: Final = TraceFormat("blkparse", matches_any_line(_EVENT), _read)
