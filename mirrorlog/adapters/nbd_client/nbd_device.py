"""A device that is an export of an NBD server."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mirrorlog.adapters.nbd_client.connection_pool import ConnectionPool
from mirrorlog.adapters.nbd_client.libnbd import STATE_ZERO
from mirrorlog.adapters.nbd_client.nbd_connection import NbdConnection, RequestFailed
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
_ASKED_BYTES: Final = (1 << 32) - (1 << 20)
_NO_ZERO: Final = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_LOST: Final = (
    "Look whether the server runs and can be reached from here. The next attempt connects again."
)
_ADVICE: Final = {
    errno.EBADF: "Open the device again, and repeat the writes since the last flush.",
    errno.ENOSPC: "Free space at the server, then repeat.",
    errno.EPERM: "Let the server export it for writing.",
    errno.EIO: "The server's storage reports an error. Look at the server's log.",
    errno.ESTALE: "Open it again. Look whether the server exports the right thing.",
}

_R = TypeVar("_R")


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
            raise self._failure("connecting", 0, error) from error
        first = self._pool.first
        self._size_bytes: Final = first.size_bytes
        self._alignment: Final = first.block_bytes
        self._transfer_bytes: Final = min(_TRANSFER_BYTES, first.request_bytes or _TRANSFER_BYTES)
        self._can_zero = first.can_zero
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
            self._check_open(offset)
            return bytearray()
        first, end = self._outwards(offset=offset, length=length)
        data = bytearray(end - first)
        self._read_into(data, first)
        if (first, end) == (offset, offset + length):
            return data
        return data[offset - first : offset - first + length]

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as ReadsRanges says. Many requests are under way at a time, on one connection."""
        columns = list(ranges)
        longest = max((length for _, length, _ in columns), default=0)
        is_simple = ranges.are_multiples_of(self._alignment) and longest <= self._transfer_bytes
        if not is_simple or not ranges.are_inside(self._size_bytes):
            for offset, length, place in columns:
                memory[place : place + length] = self.pread(offset=offset, length=length)
            return
        kept = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(kept)
        requests = [(address + place, offset, length) for offset, length, place in columns]
        first = columns[0][0] if columns else 0
        failures = self._ask("reading", first, partial(NbdConnection.pread_many, requests=requests))
        for (offset, _, _), failure in zip(columns, failures, strict=True):
            if failure is not None:
                raise self._failure("reading", offset, failure) from failure

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
        self._check_open(0)
        acknowledged = self._pool.begin_flush()
        try:
            self._ask("flushing", 0, NbdConnection.flush, oldest=True)
        except DeviceFailed as error:
            self._pool.note_flush_failed(f"an earlier flush failed: {error.what}")
            raise
        self._pool.end_flush(acknowledged)

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        self._check_open(start)
        if not self._pool.first.knows_allocation:
            if start < self._size_bytes:
                yield start, self._size_bytes - start
            return
        begin = end = start  # [begin, end) holds data, and hasn't been yielded yet
        position = start // self._alignment * self._alignment
        while position < self._size_bytes:
            length = min(_ASKED_BYTES, self._size_bytes - position)
            extents = self._ask(
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
        self._pool.close()

    def _outwards(self, *, offset: int, length: int) -> tuple[int, int]:
        align = self._alignment
        return offset // align * align, min(-(-(offset + length) // align) * align, self.size_bytes)

    def _read_into(self, data: bytearray, offset: int) -> None:
        memory = ctypes.c_char.from_buffer(data)
        address = ctypes.addressof(memory)
        for start, length in self._transfers(offset=offset, length=len(data)):
            self._ask(
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
            self._write("writing", start, request)
        del kept

    def _transfers(self, *, offset: int, length: int) -> Iterator[tuple[int, int]]:
        if length <= self._transfer_bytes:
            return iter([(offset, length)])
        return pieces(offset=offset, length=length, most_bytes=self._transfer_bytes)

    def _zero_piece(self, *, offset: int, length: int) -> None:
        if self._can_zero:
            try:
                self._write(
                    "zeroing", offset, partial(NbdConnection.zero, offset=offset, length=length)
                )
                return
            except DeviceFailed as error:
                cause = error.__cause__
                if not isinstance(cause, RequestFailed) or cause.code not in _NO_ZERO:
                    raise
                self._can_zero = False
        zeros = memoryview(bytearray(min(length, self._transfer_bytes)))
        for start, piece in self._transfers(offset=offset, length=length):
            self._write_from(zeros[:piece], start)

    def _write(self, doing: str, offset: int, request: Callable[[NbdConnection], None]) -> None:
        losses = self._pool.begin_write()
        self._ask(doing, offset, request)
        self._pool.end_write(losses)

    def _ask(
        self,
        doing: str,
        offset: int,
        request: Callable[[NbdConnection], _R],
        *,
        oldest: bool = False,
    ) -> _R:
        """Carry out a request on a connection of its own. Raise DeviceFailed.

        oldest: see ConnectionPool.take.
        """
        try:
            connection = self._pool.take(oldest=oldest)
            try:
                result = request(connection)
            except RequestFailed as error:
                if error.is_lost:
                    self._pool.discard(connection, str(error))
                else:
                    self._pool.give_back(connection)
                raise
            except BaseException:
                self._pool.discard(connection, "the request was interrupted")
                raise
        except RequestFailed as error:
            raise self._failure(doing, offset, error) from error
        self._pool.give_back(connection)
        return result

    def _check_open(self, offset: int) -> None:
        if (why := self._pool.broken) is not None:
            raise self._failure("using it", offset, RequestFailed(why, errno.EBADF, is_lost=False))

    def _check_write(self, *, offset: int, length: int) -> None:
        if not self._writable:
            raise DeviceFailed(
                "the device was opened for reading only",
                where=f"{self.address}, offset {offset}",
                next="Open it for writing.",
            )
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)
        self._check_open(offset)

    def _failure(self, doing: str, offset: int, error: RequestFailed) -> DeviceFailed:
        return DeviceFailed(
            f"{doing} failed: {error}",
            where=f"{self.address}, offset {offset}",
            next=_ADVICE.get(error.code)
            or (_LOST if error.is_lost else "Look at the server's log, then repeat."),
        )
