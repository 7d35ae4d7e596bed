"""A TLS context whose failed handshakes on asyncio keep the alert that tells the client why.

asyncio drops it (sslproto.SSLProtocol._on_handshake_complete, CPython 3.11 to 3.13).
"""

from __future__ import annotations

import ssl
from typing import Any


class AlertingContext(ssl.SSLContext):
    """A context of servers whose failed handshakes raise HandshakeFailed, with the alert."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *a: Any, **b: Any) -> Any:
        """Wrap the two buffers, as ssl.SSLContext does."""
        wrapped = super().wrap_bio(incoming, outgoing, *a, **b)
        if isinstance(wrapped, _AlertingObject):
            wrapped.outgoing = outgoing
        return wrapped


class _AlertingObject(ssl.SSLObject):
    """One end of a connection. outgoing: what waits to be sent."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            raise HandshakeFailed(error, self.outgoing.read()) from error


class HandshakeFailed(ssl.SSLError):
    """A handshake failed. alert: the bytes that tell the other end why."""

    def __init__(self, error: ssl.SSLError, alert: bytes) -> None:
        super().__init__(*error.args)
        self.alert = alert


def alerting_context() -> AlertingContext:
    """Return a context of a server that has no certificate yet."""
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = _AlertingObject
    return context
