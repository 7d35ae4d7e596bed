"""Connections that speak TLS. They count from their beginning, as those without TLS do.

asyncio's own servers with TLS call a protocol only after the handshake, so that clients could take
any number of descriptors by beginning one.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

from mirrorlog.adapters.http.connections import LimitedConnection

_CLOSING_S: Final = 1.0


class TlsHandshake(asyncio.Protocol):
    """Makes the handshake of a connection, and then hands it over to `limited`.

    handshake_s: the time for it in seconds. A failed handshake is the client's matter: nothing is
    logged.
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
            self._limited.give_up()
            plain.abort()
            if not isinstance(error, OSError | ValueError | TimeoutError):
                raise
            return
        if encrypted is None:
            self._limited.give_up()
        else:
            self._limited.connection_made(encrypted)
