"""blktrace's own files (blktrace(8)): one for each CPU, or all of them in one stream (`blktrace -d DEVICE -o -`).

include/uapi/linux/blktrace_api.h, in the byte order of the machine that recorded, `pdu_len` bytes after each event:

    version 7, 48 bytes   u32 magic, u32 sequence, u64 time (ns), u64 sector (of 512 bytes), u32 bytes, u32 action, u32 pid,
                          u32 device, u32 cpu, u16 error, u16 pdu_len
    version 8, 64 bytes   u32 magic, u32 sequence, u64 time, u64 sector, u32 bytes, u32 pid, u64 action, u32 device, u32 cpu,
                          u16 error, u16 pdu_len, 12 bytes unused

A request is queued (Q) once, as for blkparse's text. What Q doesn't tell makes the whole volume dirty:
- a passed-through command that carries data to the device (SG_IO, NVMe ioctl): it isn't queued, only issued;
- a write of no bytes that isn't a flush (a reset of a zone);
- a gap in the numbers of a CPU's events. Before Linux 6.19 events that the kernel itself dropped have none (`__blk_add_trace`):
  only blktrace tells of those, when it ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from mirrorlog.producers.importers.change import AddressRange, ImportSource
from mirrorlog.producers.importers.reading import SourceReader
from mirrorlog.producers.importers.recordings import source_of_requests
from mirrorlog.producers.traces import RequestKind, TracedRequest
from mirrorlog.producers.traces.request import SECTOR_BYTES, MalformedRecord, transfer

_MAGIC: Final = 0x65617400
_BODIES: Final = {7: "IQQIIIIIHH", 8: "IQQIIQIIHH12x"}
_WRITE, _FLUSH, _PASSED_THROUGH, _NOTIFY, _DISCARD = (1 << bit for bit in (1, 2, 9, 10, 13))
_QUEUED: Final = 1
_ISSUED: Final = 7
_TIMESTAMP: Final = 1
ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class BlktraceEvent:
    """One event. act: what happened, without the mark of a cgroup; of: bits, what it happened to."""

    sequence: int
    time_ns: int
    sector: int
    length: int
    act: int
    of: int
    device: int
    cpu: int
    data: bytes
    order: ByteOrder

    @property
    def device_name(self) -> str:
        """Major and minor number (kdev_t.h: the lower 20 bits are the minor one)."""
        return f"{self.device >> 20}-{self.device & 0xFFFFF}"

    def says_time(self) -> bool:
        """Whether its data is the time of day."""
        return bool(self.of & _NOTIFY) and self.act == _TIMESTAMP and len(self.data) >= 8

    def wall_clock_us(self) -> int:
        """Microseconds from 1970 to where the events' times count from. The data ends with seconds and nanoseconds, u32."""
        seconds, nanoseconds = (
            int.from_bytes(each, self.order) for each in (self.data[-8:-4], self.data[-4:])
        )
        return (seconds * 1_000_000_000 + nanoseconds - self.time_ns) // 1000


def blktrace_source(
    paths: Sequence[Path],
    volume: AddressRange,
    *,
    device: str | None = None,
    discard_zeroes: bool = False,
) -> ImportSource:
    """paths: the files of all CPUs; they are read one after the other, for the order of writes changes nothing.

    volume: what is dirty where all of it is.
    """
    warnings: list[str] = []
    files = [SourceReader(path, "blktrace", warnings) for path in paths]
    epoch_us = next(filter(None, map(_epoch_us, files)), None)

    def requests() -> Iterator[TracedRequest]:
        last: dict[tuple[int, int], int] = {}
        for reader in files:
            with reader.opened() as stream:
                for event in _read(reader, stream):
                    yield from _lost(event, last, reader, volume)
                    yield from _requested(event, reader, volume)

    early_us = None if epoch_us is None else -epoch_us
    return source_of_requests("blktrace", requests, warnings, device, discard_zeroes, early_us)


def _epoch_us(reader: SourceReader) -> int | None:
    """Where the times of all files count from, if this one says it."""
    with reader.opened() as stream:
        return next(
            (event.wall_clock_us() for event in _read(reader, stream) if event.says_time()), None
        )


def _read(reader: SourceReader, stream: BinaryIO) -> Iterator[BlktraceEvent]:
    order, size = None, 0
    while True:
        reader.byte += size
        reader.record += 1
        head = stream.read(4)
        if not head:
            if order is None:
                raise MalformedRecord("the file is empty")
            return
        order = _order(head)
        version = int.from_bytes(head, order) & 0xFF
        if version not in _BODIES:
            raise MalformedRecord(
                f"version {version} of blktrace's events is unknown, 7 and 8 are read"
            )
        body = struct.Struct(("<" if order == "little" else ">") + _BODIES[version])
        content = stream.read(body.size)
        if len(content) < body.size:
            raise MalformedRecord("the file ends in the middle of an event")
        sequence, time_ns, sector, count, *rest, device, cpu, _, data_bytes = body.unpack(content)
        action = rest[0] if version == 7 else rest[1]
        data = stream.read(data_bytes)
        if len(data) < data_bytes:
            raise MalformedRecord("the file ends in the middle of an event's data")
        size = 4 + body.size + data_bytes
        yield BlktraceEvent(
            sequence,
            time_ns,
            sector,
            count,
            action & 0xFF,
            action >> 16,
            device & 0xFFFFFFFF,
            cpu,
            data,
            order,
        )


def _order(head: bytes) -> ByteOrder:
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for order in orders:
        if len(head) == 4 and int.from_bytes(head, order) & 0xFFFFFF00 == _MAGIC:
            return order
    raise MalformedRecord(
        "no event of blktrace begins here", next="Is it blkparse's text? Then import blkparse."
    )


def _lost(
    event: BlktraceEvent,
    last: dict[tuple[int, int], int],
    reader: SourceReader,
    volume: AddressRange,
) -> Iterator[TracedRequest]:
    """The whole volume, where events before this one are missing. What notes something has no number."""
    if event.of & _NOTIFY:
        return
    place = (event.device, event.cpu)
    expected = (last.get(place, event.sequence - 1) + 1) & 0xFFFFFFFF
    last[place] = event.sequence
    if event.sequence != expected:
        reader.warn(
            f"events of CPU {event.cpu} are missing: the whole volume is dirty (larger buffers help: blktrace -b, -n)"
        )
        yield _anywhere(event, volume)


def _requested(
    event: BlktraceEvent, reader: SourceReader, volume: AddressRange
) -> Iterator[TracedRequest]:
    if not event.of & _WRITE:  # a discard is one, too
        return
    if event.act == _ISSUED and event.of & _PASSED_THROUGH:
        reader.warn(
            "a command was passed through to the device, and where it wrote isn't told: the whole volume is dirty"
        )
        yield _anywhere(event, volume)
    elif event.act == _QUEUED and event.length:
        kind = RequestKind.DISCARD if event.of & _DISCARD else RequestKind.WRITE
        yield from transfer(
            event.device_name,
            kind,
            event.sector * SECTOR_BYTES,
            event.length,
            event.time_ns // 1000,
        )
    elif event.act == _QUEUED and not event.of & _FLUSH:
        reader.warn(
            "a write of no bytes that is no flush (the reset of a zone): the whole volume is dirty"
        )
        yield _anywhere(event, volume)


def _anywhere(event: BlktraceEvent, volume: AddressRange) -> TracedRequest:
    return TracedRequest(
        event.device_name, RequestKind.WRITE, volume.offset, volume.length, event.time_ns // 1000
    )
