"""Who may ask a server of mirrorlog over HTTP: a token, certificates, or whoever is on the machine.

Without a token and without a CA of clients, a server listens on the loopback address only
(adapters/listening.py).
"""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mirrorlog.adapters.http.alerting_context import alerting_context
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class HttpAccess:
    """What a request must bring, and with what the server proves who it is.

    token:       sent as `Authorization: Bearer TOKEN`; empty: none is asked for.
    certificate: of this machine, with its chain, as PEM; None: there is no TLS.
    key:         of the certificate, as PEM without a password.
    ca:          certificates of the authorities that sign those of clients, as PEM. With it, a
                 client needs a certificate (mutual TLS). The same authorities sign those of
                 servers that this machine asks.
    """

    token: str = field(default="", repr=False)
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def is_guarded(self) -> bool:
        """Whether strangers who reach the server are refused."""
        return bool(self.token) or (self.ca is not None and self.certificate is not None)

    @property
    def scheme(self) -> str:
        """Of the server's URL."""
        return "http" if self.certificate is None else "https"

    def admits(self, authorization: str) -> bool:
        """Return whether the header `Authorization` carries the token. Takes as long if not."""
        return is_same_secret(authorization, f"Bearer {self.token}") or not self.token

    def server_context(self) -> ssl.SSLContext | None:
        """Return what a server speaks TLS with; None if it speaks none.

        Raise BadUse if a file can't be used, or one of certificate and key is missing.
        """
        if self.certificate is None and self.key is None and self.ca is None:
            return None
        if self.certificate is None or self.key is None:
            raise BadUse(
                "http_certificate and http_key belong together, and http_ca needs both",
                next="Set both, or neither of the three.",
            )
        context = alerting_context()
        self._load_own(context)
        if self.ca is not None:
            _load_ca(context, self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext | None:
        """Return what a client of mirrorlog's servers speaks TLS with; None: as any other client.

        It trusts `ca`, or the machine's authorities without it, and shows the certificate if there
        is one. Raise BadUse as server_context() does.
        """
        if self.ca is None and (self.certificate is None or self.key is None):
            return None
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        if self.ca is not None:
            _load_ca(context, self.ca)
        if self.certificate is not None and self.key is not None:
            self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        assert self.certificate is not None
        assert self.key is not None
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise BadUse(
                f"the certificate or its key can't be used: {_reason(error)}",
                where=f"{self.certificate}, {self.key}",
                next="Write both as PEM, the key without a password and for its owner alone.",
            ) from None


def http_access(settings: Settings, token: str) -> HttpAccess:
    """Return who may ask a server of this machine that asks for `token`."""
    return HttpAccess(token, settings.http_certificate, settings.http_key, settings.http_ca)


def is_same_secret(given: str, wanted: str) -> bool:
    """Compare two texts in a time that doesn't depend on where they differ."""
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode(errors="replace"))


def bearer(token: str) -> Mapping[str, str]:
    """Return the headers that carry a token; none if it is empty."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ValueError) as error:
        raise BadUse(
            f"the certificates of the CA can't be used: {_reason(error)}",
            where=str(ca),
            next="Write them as PEM, one after another.",
        ) from None


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would ask for it at the terminal."""
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
