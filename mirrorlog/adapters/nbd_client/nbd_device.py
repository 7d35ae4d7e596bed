"""A device that is an export of an NBD server."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

from mirrorlog.adapters.nbd_client.connection_pool import ConnectionPool
from mirrorlog.adapters.nbd_client.export_calls import ExportCalls, failed, is_unable
from mirrorlog.adapters.nbd_client.libnbd import STATE_ZERO
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, Request, RequestFailed
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri
from mirrorlog.adapters.range_locks import RangeLocks, pieces
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.closing import ClosesOnExit
from mirrorlog.ports.devices import Data, DeviceIdentity, check_range

if TYPE_CHECKING:
    from mirrorlog.domain.range_columns import RangeColumns

CONNECT_S: Final = 10.0
"""A connection must be made within this time."""
REQUEST_S: Final = 60.0
"""Each request must be answered within this time: a disk may need long to zero a large range."""
CONNECTIONS: Final = 16
"""A device has at most this many connections, and as many as threads call it at a time."""
_TRANSFER_BYTES: Final = 4 << 20
_ZERO_BYTES: Final = 256 << 20
_ASK_EACH: Final = 8
_ASKED_BYTES: Final = (1 << 32) - (1 << 20)


class NbdDevice(ClosesOnExit):
    """BlockDevice on an NBD export.

    Nothing lasting is known of an export: its name and its server are names. What stays the same
    while a connection lasts is the export; with `reconnects=False` a device lasts no longer than
    its connections, so that whoever holds it knows what it holds.

    Methods without a docstring follow BlockDevice.
    """

    def __init__(
        self,
        uri: NbdUri,
        *,
        writable: bool,
        reconnects: bool = True,
        connections: int = CONNECTIONS,
        connect_s: float = CONNECT_S,
        request_s: float = REQUEST_S,
    ) -> None:
        """Connect to the export.

        reconnects: after a connection was lost with nothing unflushed, the next call opens a new
            one. False: every further call fails.

        Raise BadUse if libnbd is missing, or if the server can't make writes durable. Raise
        DeviceFailed if no connection can be made, or if the export is only for reading.
        """
        self.address: Final = str(uri)
        self.uri: Final = uri
        self._writable: Final = writable
        self._ranges: Final = RangeLocks()
        connect = partial(NbdConnection, uri, connect_s=connect_s, deadline_s=request_s)
        try:
            self._pool: Final = ConnectionPool(connect, most=connections, reconnects=reconnects)
        except RequestFailed as error:
            raise failed(self.address, "connecting", 0, error) from error
        self._calls: Final = ExportCalls(self.address, self._pool, deadline_s=request_s)
        first = self._pool.first
        self._size_bytes: Final = first.size_bytes
        self._alignment: Final = first.block_bytes
        self._transfer_bytes: Final = min(_TRANSFER_BYTES, first.request_bytes or _TRANSFER_BYTES)
        self._can_zero = first.can_zero
        self._calls_since_zeros = 0
        if writable and (first.is_read_only or not first.can_flush):
            self.close()
            if first.is_read_only:
                raise DeviceFailed(
                    "the server exports it for reading only",
                    where=f"{self.address}, offset 0",
                    next="Let the server export it for writing.",
                )
            raise BadUse(
                "the server has no flush, so nothing that is written is known to be durable",
                where=self.address,
                next="Use a server that has it, such as nbdkit or qemu-nbd.",
            )

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def identity(self) -> DeviceIdentity:
        """The export by its name. lasting is None: another export may have the same name later."""
        return DeviceIdentity(storage=self.uri.place)

    @property
    def is_remote(self) -> bool:
        """Whether the server is reached over a network, and not at a Unix socket."""
        return not self.uri.is_unix

    @property
    def description(self) -> str | None:
        """What the server says of the export; None: nothing."""
        return self._pool.first.description

    @property
    def is_open(self) -> bool:
        """Whether the device isn't broken, as far as that is known, and wasn't closed."""
        return self._pool.broken is None

    def is_intact(self) -> bool:
        """Return False if the device is broken, or a connection of it is known to be lost.

        Asks nothing of the server.
        """
        return self._pool.is_intact()

    def ping(self) -> None:
        """Drop idle connections whose server has stopped. Any thread may call it."""
        self._pool.ping()

    def pread(self, *, offset: int, length: int) -> bytearray:
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)
        if not length:
            self._calls.check_open(offset)
            return bytearray()
        first, end = self._outwards(offset=offset, length=length)
        data = bytearray(end - first)
        self._read_into(data, first)
        if (first, end) == (offset, offset + length):
            return data
        return data[offset - first : offset - first + length]

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as ReadsRanges says. Many requests are under way at a time."""
        self._calls.check_open(0)
        self._check_ranges(ranges)
        if not ranges.are_multiples_of(self._alignment):
            for offset, length, place in ranges:
                memory[place : place + length] = self.pread(offset=offset, length=length)
            return
        to_read = self._without_zeros(ranges, memory)
        requests = self._requests(to_read, memory, self._transfer_bytes)
        self._calls.ask_many("reading", requests, NbdConnection.send_read)

    def pwrite(self, offset: int, data: Data) -> None:
        view = memoryview(data).cast("B")
        self._check_write(offset=offset, length=len(view))
        if not len(view):
            return
        first, end = self._outwards(offset=offset, length=len(view))
        with self._ranges.held(first=first, end=end) if self._alignment > 1 else nullcontext():
            if (first, end) != (offset, offset + len(view)):
                block = self.pread(offset=first, length=end - first)
                block[offset - first : offset - first + len(view)] = view
                view = memoryview(block)
            self._write_from(view, first)

    def pwrite_ranges(
        self, ranges: RangeColumns, memory: memoryview, *, is_only_writer: bool
    ) -> None:
        """Do as WritesRanges says. Many requests are under way at a time."""
        del is_only_writer
        self._check_write(offset=0, length=0)
        self._check_ranges(ranges)
        if not ranges.are_multiples_of(self._alignment):
            for offset, length, place in ranges:
                self.pwrite(offset, memory[place : place + length])
            return
        requests = self._requests(ranges, memory, self._transfer_bytes)
        with self._held(ranges):
            self._calls.write_many("writing", requests, NbdConnection.send_write)
        self._calls.flush_early(ranges.size_bytes)

    def zero_ranges(self, ranges: RangeColumns) -> None:
        """Do as ZeroesRanges says. Many requests are under way at a time."""
        self._check_write(offset=0, length=0)
        self._check_ranges(ranges)
        if self._can_zero and ranges.are_multiples_of(self._alignment):
            requests = self._requests(ranges, None, _ZERO_BYTES)
            try:
                with self._held(ranges):
                    self._calls.write_many("zeroing", requests, NbdConnection.send_zero)
                return
            except DeviceFailed as error:
                if not is_unable(error):
                    raise
                self._can_zero = False
        for offset, length, _ in ranges:
            self.zero(offset=offset, length=length)

    def zero(self, *, offset: int, length: int) -> None:
        self._check_write(offset=offset, length=length)
        align = self._alignment
        first, end = -(-offset // align) * align, (offset + length) // align * align
        if first >= end:
            self.pwrite(offset, bytes(length))
            return
        self.pwrite(offset, bytes(first - offset))
        with self._ranges.held(first=first, end=end) if align > 1 else nullcontext():
            for start, piece in pieces(offset=first, length=end - first, most_bytes=_ZERO_BYTES):
                self._zero_piece(offset=start, length=piece)
        self.pwrite(end, bytes(offset + length - end))

    def flush(self) -> None:
        self._calls.check_open(0)
        self._calls.flush()

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        self._calls.check_open(start)
        if not self._pool.first.knows_allocation:
            if start < self._size_bytes:
                yield start, self._size_bytes - start
            return
        begin = end = start  # [begin, end) holds data, and hasn't been yielded yet
        position = start // self._alignment * self._alignment
        while position < self._size_bytes:
            length = min(_ASKED_BYTES, self._size_bytes - position)
            extents = self._calls.ask(
                "looking for data",
                position,
                partial(NbdConnection.extents, offset=position, length=length),
            )
            for size, flags in extents:
                position = min(position + size, self._size_bytes)
                if flags & STATE_ZERO:
                    if end > begin:
                        yield begin, end - begin
                    begin = end = max(position, start)
                else:
                    end = max(position, start)
        if end > begin:
            yield begin, end - begin

    def resize(self, size_bytes: int) -> None:
        """Refuse any other size: a server grows its exports, not a client."""
        if size_bytes < self._size_bytes:
            raise BadUse(
                f"a device of {self._size_bytes} bytes can't be made smaller, to {size_bytes}",
                where=self.address,
                next="Create a new volume of that size.",
            )
        self._check_write(offset=0, length=0)
        if size_bytes != self._size_bytes:
            raise DeviceFailed(
                f"this NBD export has {self._size_bytes} bytes, not {size_bytes}",
                where=f"{self.address}, offset {self._size_bytes}",
                next="Grow it at its server, and let the server export it again.",
            )

    def close(self) -> None:
        self._calls.close()

    def _outwards(self, *, offset: int, length: int) -> tuple[int, int]:
        align = self._alignment
        return offset // align * align, min(-(-(offset + length) // align) * align, self.size_bytes)

    def _read_into(self, data: bytearray, offset: int) -> None:
        memory = ctypes.c_char.from_buffer(data)
        address = ctypes.addressof(memory)
        for start, length in self._transfers(offset=offset, length=len(data)):
            self._calls.ask(
                "reading",
                start,
                partial(
                    NbdConnection.pread,
                    address=address + start - offset,
                    offset=start,
                    length=length,
                ),
            )

    def _write_from(self, view: memoryview, offset: int) -> None:
        """Write all of `view`. Its memory is kept, and not copied unless it is read-only."""
        kept: object = view.obj
        if isinstance(kept, bytes) and len(kept) == len(view):
            address = ctypes.cast(ctypes.c_char_p(kept), ctypes.c_void_p).value or 0
        else:  # ctypes takes no pointer into what is read-only
            kept = memory = ctypes.c_char.from_buffer(bytearray(view) if view.readonly else view)
            address = ctypes.addressof(memory)
        for start, length in self._transfers(offset=offset, length=len(view)):
            request = partial(
                NbdConnection.pwrite, address=address + start - offset, offset=start, length=length
            )
            self._calls.write("writing", start, request)
        del kept

    def _transfers(self, *, offset: int, length: int) -> Iterator[tuple[int, int]]:
        if length <= self._transfer_bytes:
            return iter([(offset, length)])
        return pieces(offset=offset, length=length, most_bytes=self._transfer_bytes)

    def _zero_piece(self, *, offset: int, length: int) -> None:
        if self._can_zero:
            try:
                self._calls.write(
                    "zeroing", offset, partial(NbdConnection.zero, offset=offset, length=length)
                )
                return
            except DeviceFailed as error:
                if not is_unable(error):
                    raise
                self._can_zero = False
        zeros = memoryview(bytearray(min(length, self._transfer_bytes)))
        for start, piece in self._transfers(offset=offset, length=length):
            self._write_from(zeros[:piece], start)

    def _without_zeros(self, ranges: RangeColumns, memory: memoryview) -> RangeColumns:
        """Return what is to be read. Other parts of the ranges are zeros, and in `memory`, too.

        The server is asked about long ranges, as a trim leaves them. That costs a round trip, so
        while it finds nothing only each _ASK_EACH-th call asks.
        """
        from mirrorlog.adapters.nbd_client.zero_extents import are_long, without_zeros  # numpy

        long = are_long(ranges)
        if not long.any() or not self._pool.first.knows_allocation:
            return ranges
        self._calls_since_zeros += 1
        if self._calls_since_zeros % _ASK_EACH != 1:
            return ranges
        asked = [(offset, length) for offset, length, _ in ranges.where(long)]
        extents = self._calls.extents_many("looking for data", asked)
        to_read = without_zeros(ranges, long, extents, memory)
        if to_read is not ranges:
            self._calls_since_zeros = 0
        return to_read

    def _requests(
        self, ranges: RangeColumns, memory: memoryview | None, most_bytes: int
    ) -> list[Request]:
        """Return the requests for ranges and their places in `memory`, which the caller keeps."""
        start = 0 if memory is None else ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if not len(ranges) or int(ranges.lengths.max()) <= most_bytes:
            return [(start + place, offset, length) for offset, length, place in ranges]
        return [
            (start + place + piece - offset, piece, size)
            for offset, length, place in ranges
            for piece, size in pieces(offset=offset, length=length, most_bytes=most_bytes)
        ]

    def _held(self, ranges: RangeColumns) -> AbstractContextManager[None]:
        """Keep off writes that read a whole aligned block before they change a part of it."""
        if self._alignment == 1 or not len(ranges):
            return nullcontext()
        ends = ranges.offsets + ranges.lengths
        return self._ranges.held(first=int(ranges.offsets.min()), end=int(ends.max()))

    def _check_ranges(self, ranges: RangeColumns) -> None:
        if not ranges.are_inside(self._size_bytes):
            for offset, length, _ in ranges:
                check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)

    def _check_write(self, *, offset: int, length: int) -> None:
        if not self._writable:
            raise DeviceFailed(
                "the device was opened for reading only",
                where=f"{self.address}, offset {offset}",
                next="Open it for writing.",
            )
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)
        self._calls.check_open(offset)
