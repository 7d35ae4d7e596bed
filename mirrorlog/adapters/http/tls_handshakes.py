"""Connections that speak TLS. They count from their beginning, as those without TLS do.

asyncio's own servers with TLS call a protocol only after the handshake, so that clients could take
any number of descriptors by beginning one. They also keep from a client why its handshake failed:
here it gets the alert (RFC 8446, section 6).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final, cast

from mirrorlog.adapters.http.alerting_context import HandshakeFailed
from mirrorlog.adapters.http.connections import LimitedConnection

_CLOSING_S: Final = 1.0
_ALERT_S: Final = 1.0
_CHUNK_BYTES: Final = 1 << 12


class TlsHandshake(asyncio.Protocol):
    """Makes the handshake of a connection, and then hands it over to `limited`.

    handshake_s: the time for it in seconds. A failed handshake is the client's matter: nothing is
    logged. Until the handshake ends, the connection takes two descriptors.
    """

    def __init__(
        self, limited: LimitedConnection, context: ssl.SSLContext, handshake_s: float
    ) -> None:
        self._limited, self._context, self._handshake_s = limited, context, handshake_s
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake. Bytes wait in the socket until then."""
        plain = cast(asyncio.Transport, transport)
        plain.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(plain))

    async def _shake_hands(self, plain: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        # asyncio closes its own descriptor when a handshake fails, and what it would send is lost.
        with plain.get_extra_info("socket").dup() as spare:
            try:
                encrypted = await loop.start_tls(
                    plain,
                    self._limited,
                    self._context,
                    server_side=True,
                    ssl_handshake_timeout=self._handshake_s,
                    ssl_shutdown_timeout=_CLOSING_S,
                )
            except BaseException as error:
                plain.abort()
                try:
                    if isinstance(error, HandshakeFailed):
                        await _send_alert(spare, error.alert)
                finally:
                    self._limited.give_up()
                if not isinstance(error, OSError | ValueError | TimeoutError):
                    raise
                return
        if encrypted is None:
            self._limited.give_up()
        else:
            self._limited.connection_made(encrypted)


async def _send_alert(spare: socket.socket, alert: bytes) -> None:
    """Send an alert, and wait a moment until the client has ended the connection.

    To close a socket with bytes that nobody read resets the connection: the client would see that
    instead.
    """
    spare.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ALERT_S):
            await loop.sock_sendall(spare, alert)
            spare.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(spare, _CHUNK_BYTES):
                pass
