"""blkparse's default text (blkparse(1), "Default output"): one event in a line, then a summary.

    major,minor cpu sequence seconds.nanoseconds pid action rwbs rest

What `rest` holds depends on the action (process_default in blkparse_fmt.c):

    sector + sectors [process]      Q, I, D, B, G, S, M, F. `[process]` alone if there are no bytes.
    sector + sectors [error]        C and R. `sector [error]` if there are no bytes.
    bytes (command) [process]       a command that is passed through; C and R have no bytes. Newer
                                    kernels don't record the command.
    sector + sectors <- (major,minor) sector        A: the device and sector from which it comes
    sector / sector [process]       X: where the request begins, and where it is split

`blkparse -t` adds the time that passed, `(  12345)`, behind the sectors. In rwbs (fill_rwbs there)
R is a read, W a write, D a discard, N neither, and Z with another letter an operation on a zone. An
F before that letter is a preflush, and an F after it is FUA. The device in a remap's line is the
one to which it goes, which needn't be the recorded one.

A replay takes Q events only, because each request is queued once. mirrorlog has flushes and no FUA:
a preflush becomes a flush before the write, and FUA one after it. The kernel does the same for a
disk without FUA (Documentation/block/writeback_cache_control.rst).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.producers.traces.block_events import NO_DEVICE, BlockEvent, Remap
from mirrorlog.producers.traces.request import (
    MAX_TIME_US,
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
    rb"\s*(\d{1,10}),(\d{1,10})\s+(\d{1,10})\s+(-?\d{1,10})\s+(\d{1,20})\.(\d{9})\s+\d+"
    rb"\s+(?!m\s)([A-Za-z]{1,2})\s+([A-Z]+)(?:\s+(.*))?"
)
_NOTE: Final = re.compile(rb"\s*\d+,\d+\s+\d+\s+\d+\s+\d+\.\d{9}\s+\d+\s+m\s+N\s.*")
_RWBS: Final = re.compile(rb"(F?)(Z[A-Z]|[RWDN])([A-Z]*)")
_ELAPSED: Final = rb"(?: \( *\d{1,20}\))?"
_NAME: Final = rb" ?\[.*\]"
"""Each line about a request ends with it, so that a number before it is never cut."""
_TRANSFER: Final = re.compile(rb"(\d+) \+ (\d+)" + _ELAPSED + _NAME)
_NO_BYTES: Final = re.compile(rb"(?:\((?=.{8,20}\)) *\d+\))?" + _NAME)
_NO_BYTES_ENDED: Final = re.compile(rb"(\d+)" + _ELAPSED + _NAME)
_COMMAND: Final = re.compile(
    rb"(?:\d+)? ?(?:\(([0-9a-f]{2})(?: [0-9a-f]{2})*(?: \.\.)?\))?" + _NAME
)
_REMAP: Final = re.compile(rb"(\d+) \+ (\d+) <- \((\d{1,10}),(\d{1,10})\) (\d+)")
_SPLIT: Final = re.compile(rb"(\d+) / (\d+)" + _NAME)
_CHANGING_RWBS: Final = re.compile(rb"F?[WDZ]")
_SUMMARY: Final = re.compile(
    rb"#.*|(?:CPU\d+|Total) \(.*\):"
    rb"|\s*(?:Reads?|Writes?|PC|IO|Timer|Allocations?|Dispatch|Completion|Throughput|Events|Skips"
    rb"|Input file|discarded traces containing)\b.*"
)
_PROCESS: Final = re.compile(rb".{1,15} \(\d+(?:, \.\.\.)?\)")
_PROCESS_COUNTS: Final = re.compile(rb"\s*Reads Queued:.*")
_ENDED: Final = frozenset({b"C", b"R"})
_WITHOUT_RANGE: Final = frozenset({b"P", b"U", b"UT"})


def read_block_events(lines: Iterator[bytes]) -> Iterator[BlockEvent]:
    """Yield the events of all actions, in the order of the lines.

    lines: without their line ends. MalformedRecord for the line that was taken last.
    """
    return map(_decoded, _event_lines(lines))


def _event_lines(lines: Iterator[bytes]) -> Iterator[re.Match[bytes]]:
    """Yield the lines of events. MalformedRecord for a line that blkparse doesn't print."""
    process = None
    for line in lines:
        if process is not None and not _PROCESS_COUNTS.fullmatch(line):
            raise _unknown_line(process)
        process = None
        if event := _EVENT.fullmatch(line):
            yield event
        elif _PROCESS.fullmatch(line) and not _SUMMARY.fullmatch(line):
            process = line
        elif not _SUMMARY.fullmatch(line) and not _NOTE.fullmatch(line):
            raise _unknown_line(line)
    if process is not None:
        raise _unknown_line(process)


def _unknown_line(line: bytes) -> MalformedRecord:
    return MalformedRecord(
        f"{quoted(line)} is neither an event of blkparse nor part of its summary"
    )


def _decoded(line: re.Match[bytes]) -> BlockEvent:
    """Return the event in a line."""
    major, minor, cpu, sequence, seconds, nanoseconds, action, rwbs, rest = line.groups(b"")
    flags = _RWBS.fullmatch(rwbs)
    if flags is None:
        raise MalformedRecord(f"rwbs {quoted(rwbs)} names no operation")
    preflush, operation, suffix = flags.groups()
    time_us = int(seconds) * 1_000_000 + int(nanoseconds) // 1000
    if time_us > MAX_TIME_US:
        raise MalformedRecord(f"time {time_us} µs is above {MAX_TIME_US} µs")
    device = _device(major, minor)
    offset, length, command, remapped_from = _range_of(action, rest)
    return BlockEvent(
        action=action.decode(),
        device=device if remapped_from is None else NO_DEVICE,
        cpu=int(cpu),
        sequence=int(sequence) & 0xFFFFFFFF,
        time_us=time_us,
        changes=operation not in (b"R", b"N"),
        discards=operation == b"D",
        preflush=bool(preflush),
        fua=b"F" in suffix,
        passed_through=command is not None,
        opcode=int(command, 16) if command else None,
        has_data=operation != b"N",
        offset=offset,
        length=length,
        remap=None if remapped_from is None else Remap(*remapped_from, to_device=device),
    )


class _LineRange(NamedTuple):
    """What a line says of the request's range.

    offset, length: in bytes; 0 if the line names no range.
    command: the first byte of a command that is passed through, in hexadecimal digits. Empty if the
    kernel recorded none; None if nothing is passed through.
    remapped_from: for a remap, the device and the offset in bytes from which it comes.
    """

    offset: int = 0
    length: int = 0
    command: bytes | None = None
    remapped_from: tuple[str, int] | None = None


def _range_of(action: bytes, rest: bytes) -> _LineRange:
    """Return what follows rwbs in a line."""
    if action == b"A":
        return _remap(rest)
    if action == b"X":
        return _split(rest)
    if sectors := _TRANSFER.fullmatch(rest):
        return _LineRange(*_bytes_of(sectors[1], sectors[2]))
    if action in _WITHOUT_RANGE and rest.startswith(b"["):
        return _LineRange()
    if action in _ENDED:
        if sector := _NO_BYTES_ENDED.fullmatch(rest):
            return _LineRange(*_bytes_of(sector[1], b"0"))
    elif _NO_BYTES.fullmatch(rest):
        return _LineRange()
    if command := _COMMAND.fullmatch(rest):
        return _LineRange(command=command[1] or b"")
    raise _no_range(rest)


def _remap(rest: bytes) -> _LineRange:
    remap = _REMAP.fullmatch(rest)
    if remap is None:
        raise _no_range(rest)
    offset, length = _bytes_of(remap[1], remap[2])
    from_offset, _ = _bytes_of(remap[5], remap[2])
    return _LineRange(offset, length, remapped_from=(_device(remap[3], remap[4]), from_offset))


def _split(rest: bytes) -> _LineRange:
    """Return the range of the request's first part. The line doesn't say how long the rest is."""
    split = _SPLIT.fullmatch(rest)
    if split is None:
        raise _no_range(rest)
    first, second = parse_number(split[1], "sector"), parse_number(split[2], "sector")
    # The kernel and blkparse keep 32 bits of the second number.
    return _LineRange(*_bytes_of(split[1], b"%d" % ((second - first) % (1 << 32))))


def _no_range(rest: bytes) -> MalformedRecord:
    return MalformedRecord(f"{quoted(rest)} isn't a sector and a count")


def _bytes_of(sector: bytes, sectors: bytes) -> tuple[int, int]:
    """Return the offset and the length of a range, in bytes."""
    offset = parse_number(sector, "sector") * SECTOR_BYTES
    length = parse_number(sectors, "count of sectors") * SECTOR_BYTES
    if offset + length > MAX_BYTE:
        raise MalformedRecord(
            f"a range of {length} bytes at byte {offset} ends above byte {MAX_BYTE}"
        )
    return offset, length


def _device(major: bytes, minor: bytes) -> str:
    return f"{int(major)}-{int(minor)}"


def _read(lines: Iterator[bytes], _volume: str) -> Iterator[TracedRequest]:
    """Yield the requests that were queued, each once."""
    queued = unqueued = False
    for line in _event_lines(lines):
        if line[7] == b"Q":
            event = _decoded(line)
            queued = queued or event.changes
            yield from _queued(event)
        else:
            unqueued = unqueued or _CHANGING_RWBS.match(line[8]) is not None
    if unqueued and not queued:
        raise MalformedRecord(
            "the recording has writes, but none is queued (Q), and a replay needs queue events to "
            "do each write once",
            next="Record with queue events (blktrace -a queue). `mirrorlog import` needs none.",
        )


def _queued(event: BlockEvent) -> Iterator[TracedRequest]:
    """Yield the requests of a Q event: a transfer with the flushes around it, or a flush alone."""
    flush = flush_request(event.device, event.time_us)
    if event.missing_range():
        kind = "discard" if event.discards else "write"
        raise MalformedRecord(f"a {kind} without a sector can't be replayed")
    if not event.length:
        if event.is_flush():
            yield flush
        return
    kind = (
        RequestKind.DISCARD
        if event.discards
        else RequestKind.WRITE
        if event.changes
        else RequestKind.READ
    )
    if event.preflush:
        yield flush
    yield from transfer(
        event.device, kind, offset=event.offset, length=event.length, time_us=event.time_us
    )
    if event.fua:
        yield flush


FORMAT: Final = TraceFormat("blkparse", matches_any_line(_EVENT), _read)
