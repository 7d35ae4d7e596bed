"""Large answers of brokers, received into memory that is used again.

aiokafka reads each connection through asyncio.StreamReader, which appends what arrives to a buffer
that grows and moves, and copies an answer out of it at once. An answer to a fetch has up to 4 MB
for each partition, so neither stays in the processor's cache. To receive it where the one before
was takes half of the time (docs/decisions/fetching-commands.md).

aiokafka still makes the connection, with TLS and SASL, sends the requests and closes it. Small
answers are read as before.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import deque
from typing import Any, Final

from aiokafka.conn import CloseReason

from mirrorlog.streams.faust_worker.kafka_connections import prepare_connections

log = logging.getLogger("mirrorlog.node")

_SIZE_BYTES: Final = 4
_NUMBER_BYTES: Final = 4
"""Each answer begins with the number of its request (Kafka's protocol guide, "Response Header")."""
_LARGE_BYTES: Final = 1 << 16
_MOST_BYTES: Final = 100_000_000
"""Nothing longer is an answer: the default of librdkafka's receive.message.max.bytes."""


def receive_in_place(client: Any) -> None:
    """Let an AIOKafkaClient, which has no connection yet, receive large answers in place."""
    prepare_connections(client, _receive_by_protocol)


def _receive_by_protocol(connection: Any) -> None:
    """Let a connection receive by AnswerProtocol. One with an open request stays as it is."""
    transport: asyncio.Transport = connection._writer.transport
    if not connection._requests and not isinstance(transport.get_protocol(), AnswerProtocol):
        transport.set_protocol(AnswerProtocol(connection))


class AnswerProtocol(asyncio.BufferedProtocol):
    """Receives the answers of one connection: a size of four bytes, and so many bytes.

    connection: an AIOKafkaConnection without an open request. Its own protocol, of which the
        connection makes its streams, is told of everything but data.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = weakref.ref(connection)
        self._own: Any = connection._protocol
        self._size = memoryview(bytearray(_SIZE_BYTES))
        self._small = memoryview(bytearray(_LARGE_BYTES))
        self._large = memoryview(b"")
        self._wanted, self._received = self._size, 0

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where the next bytes belong."""
        return self._wanted[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that were received. Close the connection if they can't be an answer."""
        self._received += nbytes
        if self._received < len(self._wanted):
            return
        connection: Any = self._connection()
        if connection is None:
            return
        try:
            self._take(connection)
        except Exception as error:
            log.exception("the answer of %s:%s can't be read", connection.host, connection.port)
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)

    def _take(self, connection: Any) -> None:
        """Read the size of an answer, or the answer."""
        taken, self._received = self._wanted, 0
        if taken is self._size:
            size = int.from_bytes(taken, "big", signed=True)
            if not 0 < size <= _MOST_BYTES:
                raise ValueError(f"{size} bytes aren't an answer")
            self._wanted = self._space_of(size)
        else:
            self._wanted = self._size
            if len(taken) <= _LARGE_BYTES:
                connection._handle_frame(bytes(taken))
            else:
                _answer(connection, taken)

    def _space_of(self, size: int) -> memoryview:
        """Return where an answer belongs. A small one says that the large space isn't needed."""
        if size <= _LARGE_BYTES:
            self._large = memoryview(b"")
            return self._small[:size]
        if size > len(self._large):
            self._large = memoryview(bytearray(size))
        return self._large[:size]

    def eof_received(self) -> bool | None:
        """Tell the connection's own protocol."""
        return self._own.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection's own protocol."""
        self._own.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the connection's own protocol."""
        self._own.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection's own protocol."""
        self._own.resume_writing()


def _answer(connection: Any, received: memoryview) -> None:
    """Answer the oldest request, as AIOKafkaConnection._handle_frame does of bytes.

    Only a number that isn't the request's is left to that: it ends the connection.
    """
    requests: deque[tuple[int | None, Any, asyncio.Future[Any]]] = connection._requests
    request: Any
    number, request, future = requests[0]
    if number != int.from_bytes(received[:_NUMBER_BYTES], "big"):
        connection._handle_frame(bytes(received))
        return
    if not future.done():
        answer = _ReceivedBytes(received)
        request.parse_response_header(answer)
        future.set_result(request.RESPONSE_TYPE.decode(answer))
    connection._last_action = time.monotonic()
    requests.popleft()


class _ReceivedBytes:
    """What aiokafka's types read from. Each part is copied once, out of what was received."""

    def __init__(self, received: memoryview) -> None:
        self._received, self._at = received, 0

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        part = bytes(self._received[self._at : self._at + size])
        self._at += size
        return part
