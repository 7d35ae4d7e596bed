"""Why a request over TLS failed, in words for whoever must mend it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple


class TlsRefusal(NamedTuple):
    """what: who refuses whom, and why. next: what to do."""

    what: str
    next: str


def tls_refusal(error: BaseException) -> TlsRefusal | None:
    """Return why TLS refused a client of mirrorlog; None if TLS isn't what failed.

    error: as a library raised it, with the error of TLS anywhere behind it.
    """
    failures = [failure for failure in _behind(error) if isinstance(failure, ssl.SSLError)]
    # aiohttp's own kinds of these errors lack the attributes.
    for failure in failures:
        if (untrusted := getattr(failure, "verify_message", None)) is not None:
            return TlsRefusal(
                f"its certificate isn't trusted: {untrusted}",
                "Set http_ca to its authorities, and use a name that is in its certificate.",
            )
    named = (getattr(failure, "reason", None) for failure in failures)
    reason = next((name for name in named if isinstance(name, str)), "")
    if not reason:
        return None
    reason = reason.replace("_", " ").lower()
    if "alert" in reason:
        return TlsRefusal(
            f"it refuses the certificate of this machine: {reason}",
            "Set http_certificate and http_key to a certificate that its http_ca has signed.",
        )
    return TlsRefusal(f"TLS fails: {reason}", "Check the address, and whether it is one of https.")


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it hides. urllib keeps them in `reason`."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        known = waiting.pop()
        if not isinstance(known, BaseException) or id(known) in seen:
            continue
        seen.add(id(known))
        yield known
        waiting += [known.__context__, known.__cause__, getattr(known, "reason", None)]
