"""Reads blktrace's own files (blktrace(8)).

There is one file for each CPU, or one stream of all CPUs (`blktrace -d DEVICE -o -`). The kernel's
include/uapi/linux/blktrace_api.h has the format, in the byte order of the recording machine.
`pdu_len` bytes of data follow each event:

    version 7, 48 bytes   u32 magic, u32 sequence, u64 time (ns), u64 sector (of 512 bytes),
                          u32 bytes, u32 action, u32 pid, u32 device, u32 cpu, u16 error,
                          u16 pdu_len
    version 8, 64 bytes   u32 magic, u32 sequence, u64 time (ns), u64 sector (of 512 bytes),
                          u32 bytes, u32 pid, u64 action, u32 device, u32 cpu, u16 error,
                          u16 pdu_len, 12 bytes unused

A request is queued (Q) once, as in blkparse's text. The whole volume becomes dirty for changes that
no Q event describes:
- a passed-through command that sends data to the device (SG_IO, NVMe ioctl): it is issued without
  being queued;
- a write of no bytes that isn't a flush: it resets a zone;
- a gap in the sequence numbers of a CPU. Before Linux 6.19, events that the kernel itself dropped
  leave no gap (`__blk_add_trace`); only blktrace reports them, when it ends.
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
"""The fields behind the magic number, by version."""
_WRITE, _FLUSH, _PASSED_THROUGH, _NOTIFY, _DISCARD = (1 << bit for bit in (1, 2, 9, 10, 13))
_QUEUED: Final = 1
_ISSUED: Final = 7
_TIMESTAMP: Final = 1
ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class BlktraceEvent:
    """One event of a trace.

    action: the low byte of the action: what happened, without the flag of a cgroup.
    categories: the high half of the action: bits (BLK_TC_*) for the kind of the request.
    length: bytes.
    """

    sequence: int
    time_ns: int
    sector: int
    length: int
    action: int
    categories: int
    device: int
    cpu: int
    data: bytes
    order: ByteOrder

    @property
    def device_name(self) -> str:
        """Return MAJOR-MINOR (the kernel's kdev_t.h: the low 20 bits are the minor number)."""
        return f"{self.device >> 20}-{self.device & 0xFFFFF}"

    @property
    def is_timestamp(self) -> bool:
        """Return whether the event's data is the time of day."""
        return bool(self.categories & _NOTIFY) and self.action == _TIMESTAMP and len(self.data) >= 8

    def clock_start_us(self) -> int:
        """Return when the events' clock was 0, in microseconds since 1970.

        Call it for a timestamp, whose data ends with seconds and nanoseconds (u32 each).
        """
        seconds = int.from_bytes(self.data[-8:-4], self.order)
        nanoseconds = int.from_bytes(self.data[-4:], self.order)
        return (seconds * 1_000_000_000 + nanoseconds - self.time_ns) // 1000


def blktrace_source(
    paths: Sequence[Path],
    volume: AddressRange,
    *,
    device: str | None = None,
    discard_zeroes: bool = False,
) -> ImportSource:
    """Read blktrace's files. See source_of_requests() for `device` and `discard_zeroes`.

    paths: the files of all CPUs. They are read one after the other, because the order of writes
    doesn't matter.
    volume: the range that is dirty where the whole volume is.
    """
    warnings: list[str] = []
    readers = [SourceReader(path, "blktrace", warnings) for path in paths]
    clock_start_us = next(filter(None, map(_clock_start_us, readers)), None)

    def requests() -> Iterator[TracedRequest]:
        last_sequences: dict[tuple[int, int], int] = {}
        for reader in readers:
            with reader.opened() as stream:
                for event in _read(reader, stream):
                    yield from _requests_of_gap(event, last_sequences, reader, volume)
                    yield from _requests_of(event, reader, volume)

    return source_of_requests(
        "blktrace",
        requests,
        warnings=warnings,
        device=device,
        discard_zeroes=discard_zeroes,
        epoch_us=None if clock_start_us is None else -clock_start_us,
    )


def _clock_start_us(reader: SourceReader) -> int | None:
    """Return when the clock of all files was 0, if this file has a timestamp."""
    with reader.opened() as stream:
        return next(
            (event.clock_start_us() for event in _read(reader, stream) if event.is_timestamp), None
        )


def _read(reader: SourceReader, stream: BinaryIO) -> Iterator[BlktraceEvent]:
    """Yield the events of the file, and keep the reader's position."""
    order, size_bytes = None, 0
    while True:
        reader.next_record(size_bytes)
        magic = stream.read(4)
        if not magic:
            if order is None:
                raise MalformedRecord("the file is empty")
            return
        order = _byte_order(magic)
        version = int.from_bytes(magic, order) & 0xFF
        if version not in _BODIES:
            raise MalformedRecord(
                f"version {version} of blktrace's events is unknown; versions 7 and 8 are known"
            )
        body = struct.Struct(("<" if order == "little" else ">") + _BODIES[version])
        content = stream.read(body.size)
        if len(content) < body.size:
            raise MalformedRecord("the file ends in the middle of an event")
        sequence, time_ns, sector, length, *rest, device, cpu, _, data_bytes = body.unpack(content)
        action = rest[0] if version == 7 else rest[1]
        data = stream.read(data_bytes)
        if len(data) < data_bytes:
            raise MalformedRecord("the file ends in the middle of an event's data")
        size_bytes = 4 + body.size + data_bytes
        yield BlktraceEvent(
            sequence=sequence,
            time_ns=time_ns,
            sector=sector,
            length=length,
            action=action & 0xFF,
            categories=action >> 16,
            device=device & 0xFFFFFFFF,
            cpu=cpu,
            data=data,
            order=order,
        )


def _byte_order(magic: bytes) -> ByteOrder:
    """Return the byte order in which these bytes are blktrace's magic number."""
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for order in orders:
        if len(magic) == 4 and int.from_bytes(magic, order) & 0xFFFFFF00 == _MAGIC:
            return order
    raise MalformedRecord(
        "no event of blktrace begins here",
        next="If the file is blkparse's text, import it as blkparse.",
    )


def _requests_of_gap(
    event: BlktraceEvent,
    last_sequences: dict[tuple[int, int], int],
    reader: SourceReader,
    volume: AddressRange,
) -> Iterator[TracedRequest]:
    """Yield a write of the whole volume if events before this one are missing.

    last_sequences: the last sequence number by device and CPU. Notifications have no number.
    """
    if event.categories & _NOTIFY:
        return
    key = (event.device, event.cpu)
    expected = (last_sequences.get(key, event.sequence - 1) + 1) & 0xFFFFFFFF
    last_sequences[key] = event.sequence
    if event.sequence != expected:
        reader.warn(
            f"events of CPU {event.cpu} are missing, so the whole volume is dirty. Record with "
            "larger buffers to avoid that (blktrace -b, -n)"
        )
        yield _whole_volume_write(event, volume)


def _requests_of(
    event: BlktraceEvent, reader: SourceReader, volume: AddressRange
) -> Iterator[TracedRequest]:
    """Yield the requests that the event stands for."""
    if not event.categories & _WRITE:  # A discard has this bit, too.
        return
    if event.action == _ISSUED and event.categories & _PASSED_THROUGH:
        reader.warn(
            "a command was passed through to the device, and the recording doesn't say where it "
            "wrote, so the whole volume is dirty"
        )
        yield _whole_volume_write(event, volume)
    elif event.action == _QUEUED and event.length:
        kind = RequestKind.DISCARD if event.categories & _DISCARD else RequestKind.WRITE
        yield from transfer(
            event.device_name,
            kind,
            offset=event.sector * SECTOR_BYTES,
            length=event.length,
            time_us=event.time_ns // 1000,
        )
    elif event.action == _QUEUED and not event.categories & _FLUSH:
        reader.warn(
            "a write of no bytes isn't a flush (it resets a zone), so the whole volume is dirty"
        )
        yield _whole_volume_write(event, volume)


def _whole_volume_write(event: BlktraceEvent, volume: AddressRange) -> TracedRequest:
    return TracedRequest(
        event.device_name, RequestKind.WRITE, volume.offset, volume.length, event.time_ns // 1000
    )
