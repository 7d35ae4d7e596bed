"""Carries out the requests of nbdkit's Python plugin (plugin.py) on a tracked volume.

Each thread of nbdkit has a connection, and sends one request at a time. All numbers are
little-endian:

    request  operation u8, 7 bytes of padding, offset u64, length u64
             WRITES: the number of writes, and how many bytes follow: for each write, its offset u64
             and its length u64; then the data of each
    reply    errno u32 (0: no error), 4 bytes of padding, size u64, then `size` bytes:
             after an error, its text
             READ: the data
             WRITES: nothing if all succeeded. Else for each write errno u32, size u32, and a text
             SIZE: a u64
             EXTENTS: one or more of offset u64, length u64, type u32, 4 bytes of padding;
             type 0 is data, type 3 a hole that reads as zeros
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock, Thread, current_thread
from typing import Final

from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.producers.writes.tracked_volume import TrackedVolume

REQUEST: Final = struct.Struct("<B7xQQ")
REPLY: Final = struct.Struct("<I4xQ")
PLACE: Final = struct.Struct("<QQ")
RESULT: Final = struct.Struct("<II")
EXTENT: Final = struct.Struct("<QQI4x")
HOLE: Final = 3
"""A hole that reads as zeros (doc/proto.md of NBD: NBD_STATE_HOLE | NBD_STATE_ZERO)."""
MAX_REPLY_EXTENTS: Final = 4096
MAX_DATA_BYTES: Final = (64 << 20) + PLACE.size
"""nbdkit refuses writes with more data, and plugin.py sends little data with more than one."""


class Operation(IntEnum):
    """The operations of the protocol."""

    SIZE = 0
    READ = 1
    WRITES = 2
    FLUSH = 3
    TRIM = 4
    ZERO = 5
    EXTENTS = 6


class Relay:
    """Listens at a Unix socket until it is closed.

    The permissions of the socket's folder must keep other users out. An error goes to the client,
    as an errno and a text.
    """

    def __init__(self, path: Path, volume: TrackedVolume, device: BlockDevice) -> None:
        self._volume: Final = volume
        self._device: Final = device
        self._listener: Final = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._lock: Final = Lock()
        self._connections: dict[Thread, socket.socket] = {}
        self._closed = False
        self._acceptor: Final = Thread(target=self._accept, name="nbd relay", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Close all connections, and wait for running requests. Stop nbdkit before."""
        with self._lock:
            self._closed = True
            connections = dict(self._connections)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for connection in connections.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        for thread in connections:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = Thread(
                target=self._serve, args=(connection,), name="nbd requests", daemon=True
            )
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._connections[thread] = connection
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(ConnectionError):
                while True:
                    head = _receive(connection, REQUEST.size)
                    operation, offset, length = REQUEST.unpack(head)
                    data = _receive(connection, length) if operation == Operation.WRITES else b""
                    code, answer = _tried(
                        partial(self._perform, Operation(operation), offset, length, data)
                    )
                    connection.sendall(REPLY.pack(code, len(answer)))
                    if answer:
                        connection.sendall(answer)
        finally:
            with self._lock:
                del self._connections[current_thread()]

    def _perform(self, operation: Operation, offset: int, length: int, data: Data) -> Data:
        """Carry out the operation and return the content of the reply."""
        match operation:
            case Operation.SIZE:
                return struct.pack("<Q", self._volume.size_bytes)
            case Operation.READ:
                return self._volume.pread(length, offset)
            case Operation.WRITES:
                return self._write_all(offset, memoryview(data))
            case Operation.FLUSH:
                self._volume.flush()
            case Operation.TRIM:
                self._volume.trim(length, offset)
            case Operation.ZERO:
                self._volume.zero(length, offset)
            case Operation.EXTENTS:
                extents = allocation_extents(self._device, offset, length)
                first = islice(extents, MAX_REPLY_EXTENTS)
                return b"".join(EXTENT.pack(*extent) for extent in first)
        return b""

    def _write_all(self, count: int, data: memoryview) -> Data:
        """Carry out each of the writes, and return their results."""
        at = count * PLACE.size
        results = []
        for offset, length in PLACE.iter_unpack(data[:at]):
            results.append(_tried(partial(self._write, data[at : at + length], offset)))
            at += length
        if not any(code for code, _ in results):
            return b""
        return b"".join(
            part for code, text in results for part in (RESULT.pack(code, len(text)), text)
        )

    def _write(self, data: Data, offset: int) -> bytes:
        self._volume.pwrite(data, offset)
        return b""


def _tried(perform: Callable[[], Data]) -> tuple[int, Data]:
    """Return 0 and what the call returns; or the errno and the text of its error."""
    try:
        return 0, perform()
    except MirrorlogError as error:
        cause = error.__cause__
        code = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
        return (errno.ESHUTDOWN if isinstance(error, BadUse) else code), str(error).encode()


def allocation_extents(
    device: BlockDevice, offset: int, length: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, length, type) for all of the range, in order and without gaps.

    type: 0 for data, HOLE for a hole.
    """
    end = offset + length
    for start, size in device.allocated(offset):
        if start >= end:
            break
        if start > offset:
            yield offset, start - offset, HOLE
        offset = min(start + size, end)
        yield start, offset - start, 0
    if offset < end:
        yield offset, end - offset, HOLE


def _receive(connection: socket.socket, size: int) -> memoryview:
    """Return the next `size` bytes.

    Raise ConnectionError if there are fewer, or `size` is too large.
    """
    if size > MAX_DATA_BYTES:
        raise ConnectionError(
            f"a request has {size} bytes of data, and {MAX_DATA_BYTES} is the maximum"
        )
    data = memoryview(bytearray(size))
    got = 0
    while got < size:
        count = connection.recv_into(data[got:])
        if not count:
            raise ConnectionError("the connection ended")
        got += count
    return data
