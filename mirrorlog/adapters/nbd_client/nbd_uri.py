"""NBD URIs (NetworkBlockDevice/nbd, doc/uri.md), with the TLS options of nbd_connect_uri(3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from mirrorlog.errors import BadUse

NBD_SCHEMES: Final = ("nbd", "nbds", "nbd+unix", "nbds+unix")
DEFAULT_PORT: Final = 10809
_TLS_OPTIONS: Final = ("tls-certificates", "tls-psk-file", "tls-verify-peer", "tls-hostname")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAX_EXPORT_BYTES: Final = 4096  # NBD protocol, "String encoding"
_FORM: Final = (
    "Write nbd://HOST[:PORT][/EXPORT], nbds:// for TLS, or nbd+unix:///[EXPORT]?socket=PATH."
)


@dataclass(frozen=True, slots=True)
class NbdUri:
    """An export of an NBD server.

    server: `HOST:PORT`, or the path of a Unix socket.
    user: the name by which a pre-shared key is chosen; empty for none.
    tls: the options of nbd_connect_uri(3) that begin with `tls-`, as they were written.
    """

    scheme: str
    server: str
    export: str = ""
    user: str = ""
    tls: Mapping[str, str] | None = None

    @property
    def is_unix(self) -> bool:
        """Whether the server listens at a Unix socket."""
        return self.scheme.endswith("+unix")

    @property
    def target(self) -> str:
        """The URI for libnbd, without the options of TLS, which are set one by one."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        export = quote(self.export, safe="/")
        if self.is_unix:
            return f"{self.scheme}://{user}/{export}?socket={quote(self.server)}"
        return f"{self.scheme}://{user}{self.server}/{export}"

    @property
    def place(self) -> str:
        """The export by its name: equal for two URIs that reach one server in the same way."""
        return f"nbd {'unix ' if self.is_unix else ''}{self.server} /{self.export}"

    def __str__(self) -> str:
        """Return the URI for people: without the user and the options of TLS."""
        path = quote(self.export, safe="/")
        if self.is_unix:
            return f"{self.scheme}:///{path}?socket={quote(self.server)}"
        return f"{self.scheme}://{self.server}{'/' + path if path else ''}"


def is_nbd(address: str) -> bool:
    """Return whether the address is an NBD URI, right or wrong."""
    match = _SCHEME.match(address)
    return match is not None and match[1].lower() in NBD_SCHEMES


def parse_nbd_uri(address: str) -> NbdUri:
    """Parse an NBD URI. Raise BadUse, which repeats no password, for anything else."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise _wrong(f"this NBD address is malformed: {error}", address) from error
    if parts.password is not None:
        raise _wrong("an NBD address has no password: keys lie in files", address)
    if parts.fragment or "\0" in unquote(address):
        raise _wrong("an NBD address has no # and no NUL", address)
    scheme, export = parts.scheme.lower(), unquote(parts.path.removeprefix("/"))
    if len(export.encode()) > _MAX_EXPORT_BYTES:
        raise _wrong(f"the name of an export has {_MAX_EXPORT_BYTES} bytes at most", address)
    options = _options(parts.query, address)
    socket = options.pop("socket", None)
    if options and not scheme.startswith("nbds"):
        raise _wrong(
            f"{', '.join(sorted(options))} needs a scheme with TLS",
            address,
            "Write nbds:// or nbds+unix://.",
        )
    if scheme.endswith("+unix"):
        if not socket or not socket.startswith("/") or parts.hostname:
            raise _wrong("an NBD address with +unix names the path of a socket", address)
        server = socket
    else:
        if socket is not None or not parts.hostname:
            raise _wrong("an NBD address names a host, and no socket unless with +unix", address)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        server = f"{host}:{DEFAULT_PORT if port is None else port}"
    return NbdUri(scheme, server, export, unquote(parts.username or ""), options)


def _options(query: str, address: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    unknown = sorted(options.keys() - {"socket", *_TLS_OPTIONS})
    if unknown or len(pairs) != len(options):
        raise _wrong(
            f"an NBD address has no option '{', '.join(unknown)}'"
            if unknown
            else "an NBD address names each option once",
            address,
            f"Its options are socket, {', '.join(_TLS_OPTIONS)}.",
        )
    if options.get("tls-verify-peer", "true") not in ("true", "1", "false", "0"):
        raise _wrong("tls-verify-peer is true or false", address)
    return options


def _wrong(what: str, address: str, next: str = _FORM) -> BadUse:
    shown = re.sub(r"//[^/?#]*@", "//", address.partition("?")[0])
    return BadUse(what, where=shown.replace("\0", "%00"), next=next)
