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
SIZE, READ, WRITES, FLUSH, TRIM, ZERO, EXTENTS = range(7)
PLACE = struct.Struct("<QQ")  # offset and length of a write
RESULT = struct.Struct("<II")  # errno, length of the text that follows
EXTENT = struct.Struct("<QQI4x")  # offset, length, type: HOLE | ZERO, 0 for data

MOST_WRITES = 256
MOST_BYTES = 1 << 20
"""A request has so many writes, and so many bytes of data if it has more than one write."""
PATIENCE_S = 0.001
"""A write that was queued for so long is sent beside those that another thread waits for."""

PR_SET_PDEATHSIG = 1  # prctl(2)

address = ""
of_thread = threading.local()


class Write:
    """A write of one of nbdkit's threads.

    turn: is released when the write has a result, or when its thread is to send. sends: whether its
    thread is to send. code, text: the result; code 0 is success.
    """

    __slots__ = ("code", "data", "offset", "sends", "text", "turn")

    def __init__(self, offset: int, data: bytearray) -> None:
        self.offset, self.data = offset, data
        self.turn = threading.Lock()
        self.turn.acquire()
        self.sends = False
        self.code, self.text = errno.EIO, "the write was interrupted"


class Writes:
    """Sends the writes of many threads in few requests: a round trip takes longer than a write.

    1. A thread queues its write.
    2. If no thread sends, it does: all that is queued, in one request. It waits for the reply.
    3. It tells the threads of these writes. A thread whose write was queued meanwhile sends next.
    4. A thread whose write was queued for PATIENCE_S sends as well, on a connection of its own. So
       a slow device has many writes at once.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queue: list[Write] = []
        self.senders = 0

    def carry_out(self, write: Write) -> None:
        """Return when the write has a result."""
        with self.lock:
            self.queue.append(write)
            if not self.senders:
                self.senders, write.sends = 1, True
        if not write.sends and not write.turn.acquire(timeout=PATIENCE_S):
            with self.lock:
                if write in self.queue and not write.sends:
                    self.senders += 1
                    write.sends = True
            if not write.sends:
                write.turn.acquire()
        if write.sends:
            self.send(write)

    def send(self, own: Write) -> None:
        """Send what is queued with a thread's own write, and tell those who wait."""
        with self.lock:
            batch = self.take(own)
        try:
            exchange(batch)
        finally:
            following = None
            with self.lock:
                if self.senders == 1 and self.queue:
                    following = self.queue[0]
                    following.sends = True
                else:
                    self.senders -= 1
            for write in batch:
                if write is not own:
                    write.turn.release()
            if following is not None:
                following.turn.release()

    def take(self, own: Write) -> list[Write]:
        """Lock held. Take the own write and others from the queue, but no other sender's."""
        self.queue.remove(own)
        batch, size, rest = [own], len(own.data), []
        for write in self.queue:
            if write.sends or len(batch) == MOST_WRITES or size + len(write.data) > MOST_BYTES:
                rest.append(write)
            else:
                batch.append(write)
                size += len(write.data)
        self.queue = rest
        return batch


writes = Writes()


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
    write = Write(offset, buffer)
    writes.carry_out(write)
    if write.code:
        raise failed(write.code, write.text)


def flush(handle: bool, flags: int) -> None:
    call(FLUSH)


def trim(handle: bool, count: int, offset: int, flags: int) -> None:
    call(TRIM, offset, count)


def zero(handle: bool, count: int, offset: int, flags: int) -> None:
    call(ZERO, offset, count)


def extents(handle: bool, count: int, offset: int, flags: int) -> list[tuple[Any, ...]]:
    return list(EXTENT.iter_unpack(call(EXTENTS, offset, count)))


def exchange(batch: list[Write]) -> None:
    """Send the writes in one request, and note their results."""
    places = b"".join(PLACE.pack(write.offset, len(write.data)) for write in batch)
    size = len(places) + sum(len(write.data) for write in batch)
    head = REQUEST.pack(WRITES, len(batch), size) + places
    code, answer = round_trip(head, *(write.data for write in batch))
    at = 0
    for write in batch:
        if code:
            write.code, write.text = code, answer.decode()
        elif answer:
            write.code, length = RESULT.unpack_from(answer, at)
            at += RESULT.size + length
            write.text = answer[at - length : at].decode()
        else:
            write.code = 0


def call(operation: int, offset: int = 0, length: int = 0) -> bytearray:
    """Send a request without data and return the content of its reply.

    Raise RuntimeError if the host reports an error or is gone; the errno is then set for nbdkit.
    """
    code, answer = round_trip(REQUEST.pack(operation, offset, length))
    if code:
        raise failed(code, answer.decode())
    return answer


def failed(code: int, text: str) -> RuntimeError:
    """Set the errno for nbdkit; return what its callback raises."""
    nbdkit.set_error(code)
    return RuntimeError(text)


def round_trip(*request: bytes | bytearray) -> tuple[int, bytearray]:
    """Send a request, and return the errno and the content of its reply.

    Each of nbdkit's threads has a connection of its own.
    """
    try:
        connection = getattr(of_thread, "connection", None)
        if connection is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(address)
            of_thread.connection = connection
        sent = connection.sendmsg(request)
        if sent < sum(map(len, request)):
            connection.sendall(b"".join(request)[sent:])
        code, size = REPLY.unpack(receive(connection, REPLY.size))
        return code, receive(connection, size)
    except OSError as error:
        text = f"the connection to the host failed: {error}"
        return errno.EIO, bytearray(text.encode())


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
