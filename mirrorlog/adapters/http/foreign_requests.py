"""Requests that a page of another site is behind, although the client is on this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from mirrorlog.errors import BadUse

_MISDIRECTED: Final = 421
"""The status of the answer to a request for another host (RFC 9110, 15.5.20)."""
_FORBIDDEN: Final = 403

Header: TypeAlias = Callable[[str], str | None]
"""Returns the value of a request's header by its name, None if the request lacks it."""


class ForeignRequest(NamedTuple):
    """Why such a request is refused. status: of the answer."""

    status: int
    error: BadUse


def foreign_request(
    method: str, header: Header, own_address: str, advertised_url: str = ""
) -> ForeignRequest | None:
    """Return the refusal of a request that another host or site is behind; None if none is.

    own_address: the IP address at which the server listens. advertised_url: by which people reach
    it, if it isn't that address.
    """
    if error := _foreign_host(header("Host"), own_address, advertised_url):
        return ForeignRequest(_MISDIRECTED, error)
    if error := _foreign_site(method, header):
        return ForeignRequest(_FORBIDDEN, error)
    return None


def _foreign_host(host: str | None, own_address: str, advertised_url: str) -> BadUse | None:
    """Return why a request for `host` is refused; None if it is for this machine, or if other
    machines may ask. None as the host: the request names none.
    """
    if host is None or not ipaddress.ip_address(own_address).is_loopback:
        return None
    name = _name_of(f"//{host}")
    if _is_this_machine(name):
        return None
    if advertised_url and name == _name_of(advertised_url):
        return None
    return BadUse(
        f"the request is for another host: {host[:100]}",
        next="Ask for localhost or 127.0.0.1. A proxy must pass on the request as one for it.",
    )


def _foreign_site(method: str, header: Header) -> BadUse | None:
    """Return why what a page of another site asks for is refused; None if no such page asks.

    Browsers say themselves who asks (Fetch Metadata Request Headers, W3C; RFC 6454, section 7).
    """
    is_followed_link = (
        method == "GET"
        and header("Sec-Fetch-Mode") == "navigate"
        and header("Sec-Fetch-Dest") == "document"
    )
    origin = header("Origin")
    is_foreign = header("Sec-Fetch-Site") in ("cross-site", "same-site") and not is_followed_link
    if origin is not None and _netloc_of(origin) != header("Host"):
        is_foreign = True
    if not is_foreign:
        return None
    return BadUse("a page of another site asks", next="Open the page of this server itself.")


def _netloc_of(url: str) -> str:
    """Return the host and port of a URL as they are written; empty if it is no URL."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _name_of(url: str) -> str:
    """Return the host of a URL in lower case; empty if it has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_this_machine(host: str) -> bool:
    """Return whether a name means this machine, and no name server decides so (RFC 6761, 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
