"""One connection to an NBD export, on which each request has a deadline."""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypeAlias

from mirrorlog.adapters.nbd_client.libnbd import (
    BASE_ALLOCATION,
    DIRECTION_READ,
    DIRECTION_WRITE,
    INSTALL_HINT,
    NO_COMPLETION,
    SIZE_MAXIMUM,
    SIZE_MINIMUM,
    ExtentCallback,
    extents_function,
    last_error,
    load_libnbd,
    take_string,
)
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri
from mirrorlog.errors import BadUse

Request: TypeAlias = tuple[int, int, int]
"""An address in memory, which the caller keeps; an offset on the export; a length, at least 1."""
Extent: TypeAlias = tuple[int, int]
"""A length, and flags of base:allocation."""
_KEEP_ALIVE_S: Final = 30
_PROBE_S: Final = 10
_PROBES: Final = 3


class RequestFailed(Exception):
    """A request failed. code: its errno, 0 if it has none. is_lost: the connection is, too."""

    def __init__(self, text: str, code: int, *, is_lost: bool) -> None:
        super().__init__(text)
        self.code, self.is_lost = code, is_lost


class NbdConnection:
    """A connection to one export. One thread uses it at a time.

    Every request raises RequestFailed. After one with `is_lost`, only close() may be called.

    size_bytes: of the export. block_bytes: the alignment that requests need, a power of two.
    request_bytes: the longest read or write; None if the server doesn't say.
    description: what the server says of the export, for people or by a convention; None: nothing.
    used_at_s: when a request ended last, by the monotonic clock.
    """

    def __init__(self, uri: NbdUri, *, connect_s: float, deadline_s: float) -> None:
        """Connect within `connect_s` seconds; the look-up of the host's name isn't counted.

        deadline_s: an answer that takes longer ends the connection.
        Raise RequestFailed, or BadUse if there is no fitting libnbd.
        """
        try:
            self._library = library = load_libnbd()
        except BadUse as error:
            raise BadUse(error.what, where=str(uri), next=error.next) from None
        self._deadline_s: Final = deadline_s
        self._handle: int | None = library.nbd_create()
        if self._handle is None:
            raise RequestFailed(*last_error(library), is_lost=True)
        try:
            self._configure(uri)
            self._check(library.nbd_aio_connect_uri(self._handle, uri.target.encode()))
            until_s = time.monotonic() + connect_s
            while library.nbd_aio_is_connecting(self._handle) == 1:
                self._poll(until_s, f"the server doesn't answer within {connect_s:g} s")
            if library.nbd_aio_is_ready(self._handle) != 1:
                raise RequestFailed("the server ended the connection", 0, is_lost=True)
            self._keep_alive()
            self.size_bytes: Final = self._ask(library.nbd_get_size)
            self.block_bytes: Final = max(1, self._ask(library.nbd_get_block_size, SIZE_MINIMUM))
            longest = self._ask(library.nbd_get_block_size, SIZE_MAXIMUM)
            self.request_bytes: Final = longest or None
            self.description: Final = take_string(library.nbd_get_export_description(self._handle))
            self.is_read_only: Final = self._ask(library.nbd_is_read_only) == 1
            self.can_flush: Final = self._ask(library.nbd_can_flush) == 1
            self.can_zero: Final = self._ask(library.nbd_can_zero) == 1
            self.can_multi_conn: Final = self._ask(library.nbd_can_multi_conn) == 1
            self.knows_allocation: Final = (
                self._ask(library.nbd_can_meta_context, BASE_ALLOCATION) == 1
            )
            self.used_at_s = time.monotonic()
        except BaseException:
            self.close()
            raise

    def _configure(self, uri: NbdUri) -> None:
        library, handle, tls = self._library, self._handle, uri.tls or {}
        self._check(library.nbd_add_meta_context(handle, BASE_ALLOCATION))
        self._check(library.nbd_set_full_info(handle, True))
        # The buffers of pread() are zeros already.
        self._check(library.nbd_set_pread_initialize(handle, False))
        if uri.scheme.startswith("nbds") and library.nbd_supports_tls(handle) != 1:
            raise BadUse(
                "the installed libnbd has no TLS", where=str(uri), next=f"Use {INSTALL_HINT}"
            )
        if (folder := tls.get("tls-certificates")) is not None:
            self._check(library.nbd_set_tls_certificates(handle, folder.encode()))
        if (keys := tls.get("tls-psk-file")) is not None:
            self._check(library.nbd_set_tls_psk_file(handle, keys.encode()))
        if (verify := tls.get("tls-verify-peer")) is not None:
            self._check(library.nbd_set_tls_verify_peer(handle, verify in ("true", "1")))
        if (name := tls.get("tls-hostname")) is not None:
            if not hasattr(library, "nbd_set_tls_hostname"):
                raise BadUse(
                    "tls-hostname needs libnbd 1.22",
                    where=str(uri),
                    next="Connect by the name that the server's certificate has.",
                )
            self._check(library.nbd_set_tls_hostname(handle, name.encode()))

    def _ask(self, function: Callable[..., int], *arguments: object) -> int:
        """Return what the library says of the export. Raise RequestFailed."""
        return self._check(function(self._handle, *arguments))

    def _keep_alive(self) -> None:
        """Let the kernel find that a server without a request is gone (tcp(7))."""
        with self._socket() as link, suppress(OSError):
            if link.family in (socket.AF_INET, socket.AF_INET6):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_S)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)

    def is_alive(self) -> bool:
        """Return False if the server is known to have ended the connection. Asks nothing of it."""
        if self._handle is None or self._library.nbd_aio_is_ready(self._handle) != 1:
            return False
        with self._socket() as link:
            try:
                # A server with TLS may send what libnbd hasn't read yet; its end is empty.
                return bool(link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except BlockingIOError:
                return True
            except OSError:
                return False

    def pread(self, address: int, *, offset: int, length: int) -> None:
        """Read exactly `length` bytes to the memory at `address`, which the caller keeps."""
        self._wait(
            self._library.nbd_aio_pread(self._handle, address, length, offset, NO_COMPLETION, 0)
        )

    def send_read(self, request: Request) -> int:
        """Begin to read a range to its memory. Return the cookie that answers() yields for it."""
        address, offset, length = request
        return self._check(
            self._library.nbd_aio_pread(self._handle, address, length, offset, NO_COMPLETION, 0)
        )

    def send_write(self, request: Request) -> int:
        """Begin to write a range from its memory; as send_read(). None under way overlap."""
        address, offset, length = request
        return self._check(
            self._library.nbd_aio_pwrite(self._handle, address, length, offset, NO_COMPLETION, 0)
        )

    def send_zero(self, request: Request) -> int:
        """Begin to make a range zeros, as zero() does; as send_read(). No address is used."""
        _, offset, length = request
        return self._check(
            self._library.nbd_aio_zero(self._handle, length, offset, NO_COMPLETION, 0)
        )

    def send_flush(self) -> int:
        """Begin to make durable what was written, as flush() does; as send_read()."""
        return self._check(self._library.nbd_aio_flush(self._handle, NO_COMPLETION, 0))

    def send_extents(self, callback: ExtentCallback, *, offset: int, length: int) -> int:
        """Begin to ask for extents; as send_read(). The caller keeps the callback."""
        return self._check(
            self._library.nbd_aio_block_status(
                self._handle, length, offset, callback, NO_COMPLETION, 0
            )
        )

    def answers(self) -> Iterator[tuple[int, RequestFailed | None]]:
        """Yield the cookie of each request that is answered, and how it failed.

        Raise RequestFailed if the connection is lost.
        """
        library, handle = self._library, self._handle
        while (cookie := library.nbd_aio_peek_command_completed(handle)) > 0:
            try:
                self._check(library.nbd_aio_command_completed(handle, cookie))
            except RequestFailed as error:
                if error.is_lost:
                    raise
                yield cookie, error
            else:
                self.used_at_s = time.monotonic()
                yield cookie, None

    def wait_for_answers(self, wake_fd: int, until_s: float) -> None:
        """Wait until something has happened on the connection, or `wake_fd` can be read.

        If neither does until `until_s`, close it: the server's answer would come into memory that
        is something else by then.
        """
        library, handle = self._library, self._handle
        socket_fd = library.nbd_aio_get_fd(handle)
        direction = self._check(library.nbd_aio_get_direction(handle))
        events = select.POLLIN if direction & DIRECTION_READ else 0
        events |= select.POLLOUT if direction & DIRECTION_WRITE else 0
        poll = select.poll()
        poll.register(socket_fd, events)
        poll.register(wake_fd, select.POLLIN)
        happened = dict(poll.poll(max(0.0, until_s - time.monotonic()) * 1000))
        if not happened:
            self.close()
            what = f"no answer within {self._deadline_s:g} s"
            raise RequestFailed(what, errno.ETIMEDOUT, is_lost=True)
        event = happened.get(socket_fd, 0)
        if event & ~select.POLLOUT:  # an error is found by reading, too
            self._check(library.nbd_aio_notify_read(handle))
        elif event:
            self._check(library.nbd_aio_notify_write(handle))

    def pwrite(self, address: int, *, offset: int, length: int) -> None:
        """Write `length` bytes from the memory at `address`, which the caller keeps."""
        self._wait(
            self._library.nbd_aio_pwrite(self._handle, address, length, offset, NO_COMPLETION, 0)
        )

    def zero(self, *, offset: int, length: int) -> None:
        """Make the range zeros. The server may make a hole of it."""
        self._wait(self._library.nbd_aio_zero(self._handle, length, offset, NO_COMPLETION, 0))

    def ping(self) -> None:
        """Read a block, so that a server that has stopped says so."""
        length = min(self.block_bytes, self.size_bytes)
        if length:
            block = bytearray(length)
            memory = ctypes.c_char.from_buffer(block)
            self.pread(ctypes.addressof(memory), offset=0, length=length)

    def flush(self) -> None:
        """Make durable what was written, on all connections if the server has multi-conn."""
        self._wait(self._library.nbd_aio_flush(self._handle, NO_COMPLETION, 0))

    def extents(self, *, offset: int, length: int) -> list[Extent]:
        """Return the extents from `offset` on.

        At least one. They may end before `length`, and the last one may reach beyond it.
        """
        extents: list[Extent] = []
        callback = extents_callback(extents)
        self._wait(
            self._library.nbd_aio_block_status(
                self._handle, length, offset, callback, NO_COMPLETION, 0
            )
        )
        if not extents or any(size == 0 for size, _ in extents):
            raise RequestFailed("the server named no extents", errno.EPROTO, is_lost=False)
        return extents

    def close(self) -> None:
        """Close the connection without a flush. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            if self._library.nbd_aio_is_ready(handle) == 1:
                self._library.nbd_aio_disconnect(handle, 0)
            self._library.nbd_close(handle)

    def _wait(self, cookie: int) -> None:
        """Wait for the answer to a request. RequestFailed if it failed, or wasn't even sent."""
        self._check(cookie)
        library, handle = self._library, self._handle
        until_s = time.monotonic() + self._deadline_s
        while True:
            self._poll(until_s, f"no answer within {self._deadline_s:g} s")
            done = library.nbd_aio_command_completed(handle, cookie)
            if done:
                break
        self._check(done)
        self.used_at_s = time.monotonic()

    def _poll(self, until_s: float, what: str) -> None:
        """Wait until something has happened on the connection.

        If nothing does until `until_s`, close it: the server's answer would come into memory that
        is something else by then.
        """
        left_s = until_s - time.monotonic()
        happened = 0
        if left_s > 0:
            happened = self._library.nbd_poll(self._handle, int(left_s * 1000) + 1)
        if happened < 0:
            text, code = last_error(self._library)
            if code != errno.EINTR:
                self.close()
                if code == errno.EINVAL:  # it ended while the request was sent
                    text = "the server ended the connection"
                raise RequestFailed(text, code, is_lost=True)
        elif happened == 0:
            self.close()
            raise RequestFailed(what, errno.ETIMEDOUT, is_lost=True)

    def _check(self, result: int) -> int:
        """Return the result of a call. RequestFailed if it is negative."""
        if result >= 0:
            return result
        text, code = last_error(self._library)
        library, handle = self._library, self._handle
        is_lost = handle is None or not (
            library.nbd_aio_is_ready(handle) == 1 or library.nbd_aio_is_processing(handle) == 1
        )
        # A server that stops refuses each request so, and ends when its clients are gone.
        is_lost |= code == errno.ESHUTDOWN
        raise RequestFailed(text, code, is_lost=is_lost)

    def _socket(self) -> _BorrowedSocket:
        return _BorrowedSocket(self._library.nbd_aio_get_fd(self._handle))


def extents_callback(extents: list[Extent]) -> ExtentCallback:
    """Return what adds the extents of an answer to `extents`. Keep it until the answer has come."""

    def take(
        _data: object, context: bytes, _offset: int, entries: list[int], count: int, _: object
    ) -> int:
        if context == BASE_ALLOCATION:
            extents.extend((entries[i], entries[i + 1]) for i in range(0, count, 2))
        return 0

    return ExtentCallback(callback=extents_function(take))


class _BorrowedSocket:
    """A descriptor that libnbd owns as a socket object, which doesn't close it."""

    def __init__(self, fd: int) -> None:
        self._socket: Final = socket.socket(fileno=fd)

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.detach()
