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

An event from a cgroup, whose action has bit 8, begins its data with the cgroup's id (u64). A remap
has the device and the sector from which the request comes in its data, in big-endian order: u32
device, u32 device to which it goes, u64 sector. A split has the sector where the next part begins,
as u64.

mirrorlog.producers.importers.block_recordings says what counts. Before Linux 6.19, events that the
kernel itself dropped leave no gap in the numbers (`__blk_add_trace`); only blktrace reports them,
when it ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.producers.importers.block_recordings import source_of_block_events
from mirrorlog.producers.importers.change import AddressRange, ImportSource
from mirrorlog.producers.importers.reading import SourceReader
from mirrorlog.producers.traces.block_events import BlockEvent, Remap
from mirrorlog.producers.traces.request import SECTOR_BYTES, MalformedRecord

_MAGIC: Final = 0x65617400
_BODIES: Final = {
    (order, version): struct.Struct(prefix + fields)
    for order, prefix in (("little", "<"), ("big", ">"))
    for version, fields in ((7, "IQQIIIIIHH"), (8, "IQQIIQIIHH12x"))
}
"""The fields behind the magic number, by byte order and version."""
_WRITE, _PREFLUSH, _PASSED_THROUGH, _NOTIFY, _DISCARD, _FUA = (
    1 << bit for bit in (1, 2, 9, 10, 13, 15)
)
"""Bits of the high half of an action (BLK_TC_*)."""
_FROM_CGROUP: Final = 1 << 8
_CGROUP_BYTES: Final = 8
_ACTIONS: Final = dict(
    enumerate(("Q", "M", "F", "G", "S", "R", "D", "C", "P", "U", "UT", "I", "X", "B", "A"), start=1)
)
"""blkparse's letters for the low byte of an action. Other actions have none."""
_REMAP: Final = struct.Struct(">IIQ")
_TIMESTAMP: Final = 1
ByteOrder = Literal["little", "big"]


class BlktraceRecord(NamedTuple):
    """One event as it is in the file. It is a tuple because a recording has millions.

    action: the low byte of the action. categories: its high half. length: bytes.
    data: without the cgroup's id.
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
    def is_note(self) -> bool:
        """Return whether it is about the recording, and about no request. Notes have no number."""
        return bool(self.categories & _NOTIFY)

    @property
    def is_timestamp(self) -> bool:
        """Return whether its data is the time of day."""
        return self.is_note and self.action == _TIMESTAMP and len(self.data) >= 8

    def clock_start_us(self) -> int:
        """Return when the events' clock was 0, in microseconds since 1970.

        Call it for a timestamp, whose data ends with seconds and nanoseconds (u32 each).
        """
        seconds = int.from_bytes(self.data[-8:-4], self.order)
        nanoseconds = int.from_bytes(self.data[-4:], self.order)
        return (seconds * 1_000_000_000 + nanoseconds - self.time_ns) // 1000

    def event(self) -> BlockEvent:
        """Return the event. MalformedRecord if its range or its data is impossible."""
        categories, action = self.categories, _ACTIONS.get(self.action, f"#{self.action}")
        passed_through = bool(categories & _PASSED_THROUGH)
        offset, length = (0, 0) if passed_through else (self.sector * SECTOR_BYTES, self.length)
        if action == "X" and len(self.data) >= 8:
            length = self._first_part_bytes()
        if offset + length > MAX_BYTE:
            raise MalformedRecord(
                f"a range of {length} bytes at byte {offset} ends above byte {MAX_BYTE}"
            )
        return BlockEvent(
            action=action,
            device=_device_name(self.device),
            cpu=self.cpu,
            sequence=self.sequence,
            time_us=self.time_ns // 1000,
            changes=bool(categories & _WRITE),  # A discard has this bit, too.
            discards=bool(categories & _DISCARD),
            preflush=bool(categories & _PREFLUSH),
            fua=bool(categories & _FUA),
            passed_through=passed_through,
            opcode=self.data[0] if passed_through and self.data else None,
            has_data=self.length > 0,
            offset=offset,
            length=length,
            remap=self._remap() if action == "A" else None,
        )

    def _first_part_bytes(self) -> int:
        """Return the length of what a split leaves at the request's beginning.

        The kernel keeps 32 bits of the sector where the next part begins. blkparse prints no other
        length, and the next part has events of its own.
        """
        next_sector = int.from_bytes(self.data[:8], "big")
        return ((next_sector - self.sector) & 0xFFFFFFFF) * SECTOR_BYTES

    def _remap(self) -> Remap:
        if len(self.data) < _REMAP.size:
            raise MalformedRecord("a remap without the device from which it comes")
        device, to_device, sector = _REMAP.unpack_from(self.data)
        return Remap(_device_name(device), sector * SECTOR_BYTES, _device_name(to_device))


def _device_name(device: int) -> str:
    """Return MAJOR-MINOR (the kernel's kdev_t.h: the low 20 bits are the minor number)."""
    return f"{device >> 20}-{device & 0xFFFFF}"


def blktrace_source(
    paths: Sequence[Path],
    volume: AddressRange,
    *,
    device: str | None = None,
    discard_zeroes: bool = False,
    shifted: bool = False,
) -> ImportSource:
    """Read blktrace's files. See source_of_block_events() for the options.

    paths: the files of all CPUs. They are read together, in the order of the events' times: a
    request may be completed on another CPU than it was queued on. The file of a CPU without events
    is empty; not all of them may be.
    """
    warnings: list[str] = []
    readers = [SourceReader(path, "blktrace", warnings) for path in paths]
    clock_start_us = next(filter(None, map(_clock_start_us, readers)), None)

    def events() -> Iterator[BlockEvent]:
        yield from merge(*map(_events, readers), key=lambda event: event.time_us)
        if all(reader.record <= 1 for reader in readers):
            with readers[-1].opened():
                readers[-1].next_record(0)
                raise MalformedRecord("the file is empty")

    return source_of_block_events(
        "blktrace",
        events,
        volume,
        warnings=warnings,
        device=device,
        discard_zeroes=discard_zeroes,
        shifted=shifted,
        epoch_us=None if clock_start_us is None else -clock_start_us,
    )


def _clock_start_us(reader: SourceReader) -> int | None:
    """Return when the clock of all files was 0, if this file has a timestamp."""
    with reader.opened() as stream:
        return next(
            (note.clock_start_us() for note in _read(reader, stream) if note.is_timestamp), None
        )


def _events(reader: SourceReader) -> Iterator[BlockEvent]:
    """Yield the events of one file."""
    with reader.opened() as stream:
        for record in _read(reader, stream):
            if not record.is_note:
                yield record.event()


def _read(reader: SourceReader, stream: BinaryIO) -> Iterator[BlktraceRecord]:
    """Yield the events of the file, and keep the reader's position."""
    size_bytes = 0
    while True:
        reader.next_record(size_bytes)
        magic = stream.read(4)
        if not magic:
            return
        order = _byte_order(magic)
        version = int.from_bytes(magic, order) & 0xFF
        body = _BODIES.get((order, version))
        if body is None:
            raise MalformedRecord(
                f"version {version} of blktrace's events is unknown; versions 7 and 8 are known"
            )
        content = stream.read(body.size)
        if len(content) < body.size:
            raise MalformedRecord("the file ends in the middle of an event")
        sequence, time_ns, sector, length, *rest, device, cpu, _, data_bytes = body.unpack(content)
        action = rest[0] if version == 7 else rest[1]
        data = stream.read(data_bytes)
        if len(data) < data_bytes:
            raise MalformedRecord("the file ends in the middle of an event's data")
        size_bytes = 4 + body.size + data_bytes
        yield BlktraceRecord(
            sequence=sequence,
            time_ns=time_ns,
            sector=sector,
            length=length,
            action=action & 0xFF,
            categories=action >> 16,
            device=device,
            cpu=cpu,
            data=data[_CGROUP_BYTES:] if action & _FROM_CGROUP else data,
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
