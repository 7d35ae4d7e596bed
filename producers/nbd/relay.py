"""The relay: requests of nbdkit's Python plugin (plugin.py), carried out on a tracked volume in this process.

A connection is one thread of nbdkit, one request at a time. All little-endian:

    request  operation u8, 7 bytes of nothing, offset u64, length u64; WRITE: the data
    reply    errno u32 (0: done), 4 bytes of nothing, size u64, so many bytes: what READ read, the reason of an error,
             SIZE a u64, EXTENTS one or more of offset u64, length u64, type u32 (0: data, 3: a hole that reads as zeros),
             4 bytes of nothing
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from itertools import islice
from pathlib import Path
from threading import Lock, Thread, current_thread
from typing import Final

from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.producers.writes.tracked_volume import TrackedVolume

REQUEST: Final = struct.Struct("<B7xQQ")
REPLY: Final = struct.Struct("<I4xQ")
EXTENT: Final = struct.Struct("<QQI4x")
HOLE: Final = 3
EXTENTS_AT_ONCE: Final = 4096
MOST_BYTES: Final = 64 << 20
"""nbdkit refuses larger requests with data."""


class Operation(IntEnum):
    """What is asked for."""

    SIZE = 0
    READ = 1
    WRITE = 2
    FLUSH = 3
    TRIM = 4
    ZERO = 5
    EXTENTS = 6


class Relay:
    """Listens at a socket whose folder keeps others out, until it is closed. Errors go to the client, as errno and reason."""

    def __init__(self, path: Path, volume: TrackedVolume, device: BlockDevice) -> None:
        self._volume: Final = volume
        self._device: Final = device
        self._listener: Final = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._lock: Final = Lock()
        self._serving: dict[Thread, socket.socket] = {}
        self._closed = False
        self._accepting: Final = Thread(target=self._accept, name="nbd relay", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """No request is under way any more when it returns. Stop nbdkit before."""
        with self._lock:
            self._closed = True
            serving = dict(self._serving)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in serving.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        for thread in serving:
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
                self._serving[thread] = connection
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(ConnectionError):
                while True:
                    head = _receive(connection, REQUEST.size)
                    operation, offset, length = REQUEST.unpack(head)
                    data = _receive(connection, length) if operation == Operation.WRITE else b""
                    code, answer = self._answer(operation, offset, length, data)
                    connection.sendall(REPLY.pack(code, len(answer)))
                    connection.sendall(answer)
        finally:
            with self._lock:
                del self._serving[current_thread()]

    def _answer(self, operation: int, offset: int, length: int, data: Data) -> tuple[int, Data]:
        try:
            return 0, self._perform(Operation(operation), offset, length, data)
        except MirrorlogError as error:
            cause = error.__cause__
            code = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EIO
            return (errno.ESHUTDOWN if isinstance(error, BadUse) else code), str(error).encode()

    def _perform(self, operation: Operation, offset: int, length: int, data: Data) -> Data:
        match operation:
            case Operation.SIZE:
                return struct.pack("<Q", self._volume.size_bytes)
            case Operation.READ:
                return self._volume.pread(length, offset)
            case Operation.WRITE:
                self._volume.pwrite(data, offset)
            case Operation.FLUSH:
                self._volume.flush()
            case Operation.TRIM:
                self._volume.trim(length, offset)
            case Operation.ZERO:
                self._volume.zero(length, offset)
            case Operation.EXTENTS:
                found = islice(extents(self._device, offset, length), EXTENTS_AT_ONCE)
                return b"".join(EXTENT.pack(*extent) for extent in found)
        return b""


def extents(device: BlockDevice, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(offset, length, type) of the whole range, in order and without gaps."""
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
    if size > MOST_BYTES:
        raise ConnectionError("a request is larger than any can be")
    found = memoryview(bytearray(size))
    got = 0
    while got < size:
        more = connection.recv_into(found[got:])
        if not more:
            raise ConnectionError("the connection ended")
        got += more
    return found
