"""A plugin of nbdkit that sends every request to the host's process.

It runs in the Python that the distribution built nbdkit with. It therefore uses only the standard
library and imports nothing of mirrorlog. relay.py is the other end, and its docstring has the
format. nbdkit-python-plugin(3) has the callbacks.

    nbdkit python producers/nbd/plugin.py relay=/path/of/a/socket
"""

# ruff: noqa: ARG001 - nbdkit defines the arguments of a callback

from __future__ import annotations

import ctypes
import errno
import signal
import socket
import struct
import threading
from typing import Any

import nbdkit

API_VERSION = 2

REQUEST = struct.Struct("<B7xQQ")  # operation, offset, length
REPLY = struct.Struct("<I4xQ")  # errno, length of what follows
SIZE, READ, WRITE, FLUSH, TRIM, ZERO, EXTENTS = range(7)
EXTENT = struct.Struct("<QQI4x")  # offset, length, type: HOLE | ZERO, 0 for data

PR_SET_PDEATHSIG = 1  # prctl(2)

address = ""
of_thread = threading.local()


def thread_model() -> int:
    model: int = nbdkit.THREAD_MODEL_PARALLEL
    return model


def config(key: str, value: str) -> None:
    global address  # noqa: PLW0603 - a plugin's functions share nothing else
    if key != "relay":
        raise ValueError(f"unknown parameter {key}")
    address = value


def config_complete() -> None:
    if not address:
        raise ValueError("the parameter relay=SOCKET is missing")


def after_fork() -> None:
    """Ask for SIGKILL when the host dies: nbdkit asks for SIGTERM, and waits for its clients."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def open(readonly: bool) -> bool:
    return bool(readonly)


def get_size(handle: bool) -> int:
    size: int = struct.unpack("<Q", call(SIZE))[0]
    return size


def can_write(handle: bool) -> bool:
    return not handle


def can_flush(handle: bool) -> bool:
    return True


def can_fua(handle: bool) -> int:
    fua: int = nbdkit.FUA_EMULATE  # nbdkit flushes after the write
    return fua


def can_trim(handle: bool) -> bool:
    return True


def can_zero(handle: bool) -> bool:
    return True


def can_fast_zero(handle: bool) -> bool:
    return False


def can_multi_conn(handle: bool) -> bool:
    return True  # A flush covers the writes of all connections that ended before it.


def can_extents(handle: bool) -> bool:
    return True


def pread(handle: bool, buffer: bytearray, offset: int, flags: int) -> None:
    buffer[:] = call(READ, offset, len(buffer))


def pwrite(handle: bool, buffer: bytearray, offset: int, flags: int) -> None:
    call(WRITE, offset, len(buffer), buffer)


def flush(handle: bool, flags: int) -> None:
    call(FLUSH)


def trim(handle: bool, count: int, offset: int, flags: int) -> None:
    call(TRIM, offset, count)


def zero(handle: bool, count: int, offset: int, flags: int) -> None:
    call(ZERO, offset, count)


def extents(handle: bool, count: int, offset: int, flags: int) -> list[tuple[Any, ...]]:
    return list(EXTENT.iter_unpack(call(EXTENTS, offset, count)))


def call(
    operation: int, offset: int = 0, length: int = 0, data: bytes | bytearray = b""
) -> bytearray:
    """Send a request and return the content of its reply.

    Each of nbdkit's threads has a connection of its own. Raise RuntimeError if the host reports an
    error or is gone; the errno is then set for nbdkit.
    """
    try:
        connection = getattr(of_thread, "connection", None)
        if connection is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(address)
            of_thread.connection = connection
        send(connection, REQUEST.pack(operation, offset, length), data)
        code, size = REPLY.unpack(receive(connection, REPLY.size))
        answer = receive(connection, size)
    except OSError as error:
        nbdkit.set_error(errno.EIO)
        raise RuntimeError(f"the connection to the host failed: {error}") from error
    if code:
        nbdkit.set_error(code)
        raise RuntimeError(answer.decode())
    return answer


def send(connection: socket.socket, head: bytes, data: bytes | bytearray) -> None:
    """Send the request's header and its data."""
    sent = connection.sendmsg([head, data])
    if sent < len(head) + len(data):
        connection.sendall((head + bytes(data))[sent:])


def receive(connection: socket.socket, size: int) -> bytearray:
    """Return the next `size` bytes.

    Raise ConnectionError if the host closes the connection before.
    """
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = connection.recv_into(view[got:])
        if not count:
            raise ConnectionError("the host closed the connection")
        got += count
    return data
