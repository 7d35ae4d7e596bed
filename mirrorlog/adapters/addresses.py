"""Addresses of devices, and the one place that opens what they name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urlsplit

from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import lock_image
from mirrorlog.adapters.nbd_client.nbd_uri import NBD_SCHEMES, is_nbd, parse_nbd_uri
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice

if TYPE_CHECKING:
    from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice

SCHEMES: Final = ("file", *NBD_SCHEMES)
_KNOWN_ADDRESSES: Final = 8192
"""How many parsed addresses are kept: a site parses those of its volumes in each of its rounds."""


@dataclass(frozen=True, slots=True)
class FileAddress:
    """The device that an address names.

    direct: open it past the page cache (O_DIRECT).
    """

    path: Path
    direct: bool = False

    @property
    def uri(self) -> str:
        """The address as a URI with an absolute path."""
        return self.path.absolute().as_uri() + ("?direct=1" if self.direct else "")


def open_device(address: str, *, writable: bool) -> BlockDevice:
    """Open a file address, a plain path, or an NBD URI (nbd_client/nbd_uri.py).

    A file address is `file:///absolute/path` (RFC 8089), or the same with `?direct=1`. Raise BadUse
    for any other address, and for an NBD URI without libnbd. Raise DeviceFailed if no device can be
    opened there.
    """
    return (
        open_nbd(address, writable=writable)
        if is_nbd(address)
        else open_file(address, writable=writable)
    )


def open_nbd(address: str, *, writable: bool, reconnects: bool = True) -> NbdDevice:
    """Open an NBD URI as open_device() does. reconnects: see NbdDevice."""
    from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice

    return NbdDevice(parse_nbd_uri(address), writable=writable, reconnects=reconnects)


def check_address(address: str) -> None:
    """Raise BadUse unless open_device() takes addresses of this form."""
    if is_nbd(address):
        parse_nbd_uri(address)
    else:
        parse_file_address(address)


def absolute_address(address: str) -> str:
    """Return the address so that it means the same in every folder. Raise BadUse if it is wrong."""
    check_address(address)
    return address if is_nbd(address) else parse_file_address(address).uri


def place_of(address: str) -> str:
    """Return the place that an address names: addresses of one place have equal ones.

    Links are followed where they are on this machine. Two places may be one storage all the same.
    Raise BadUse for an invalid address.
    """
    if is_nbd(address):
        return parse_nbd_uri(address).place
    path = path_of(address)
    try:
        return str(path.resolve())
    except (OSError, RuntimeError):  # a circle of symbolic links
        return str(path.absolute())


def open_file(address: str, *, writable: bool) -> FileDevice:
    """Open a device as open_device() does. The result has a descriptor, which can be locked."""
    return _open(parse_file_address(address), writable=writable)


def open_primary(address: str, *, exclusive: bool, direct: bool = False) -> FileDevice:
    """Open a primary for writing, as open_device does.

    exclusive: keep other writers on this machine off it (image_locks.lock_image).
    direct: open it past the page cache, even if the address doesn't ask for that.

    Raise BadUse if `exclusive` and another process on this machine writes to it.
    """
    parsed = parse_file_address(address)
    device = _open(
        replace(parsed, direct=direct or parsed.direct),
        writable=True,
    )
    try:
        if exclusive:
            lock_image(device.fileno(), device.address)
    except BaseException:
        device.close()
        raise
    return device


def _open(address: FileAddress, *, writable: bool) -> FileDevice:
    if address.direct:
        return DirectDevice(address.path, writable=writable)
    return FileDevice(address.path, writable=writable)


def path_of(address: str) -> Path:
    """Return the path of a file address or a plain path. Raise BadUse for any other address."""
    return parse_file_address(address).path


@lru_cache(maxsize=_KNOWN_ADDRESSES)
def parse_file_address(address: str) -> FileAddress:
    """Parse a file address or a plain path. Raise BadUse for any other address, and for NBD."""
    if not address or "\0" in address:
        raise BadUse(
            f"'{address}' isn't the address of a device",
            next="Write file:///absolute/path or a plain path.",
        )
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|file:/", address):
        return FileAddress(Path(address))
    address, query, option = address.partition("?")
    scheme = address.partition(":")[0].lower()
    if is_nbd(address):
        raise BadUse(
            "this must be a file or a block device of this machine, and not an NBD export",
            where=str(parse_nbd_uri(f"{address}{query}{option}")),
            next="Name a file or device. Sites alone read primaries and keep secondaries over NBD; "
            "a host opens its primary with --primary FILE.",
        )
    if scheme not in SCHEMES:
        raise BadUse(
            f"no device is opened by the scheme '{scheme}'",
            where=address,
            next=f"Known schemes: {', '.join(SCHEMES)}; or give a plain path.",
        )
    parts = urlsplit(address)
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if (
        parts.netloc not in ("", "localhost")
        or "#" in address + option
        or len(path) < 2
        or "\0" in path
    ):
        raise BadUse(
            "this file address names no path of this machine",
            where=address,
            next="Write file:///absolute/path, with %3F for ? and %23 for #.",
        )
    if query and option != "direct=1":
        raise BadUse(
            f"a file address has no option '{option}'",
            where=address,
            next="Write file:///absolute/path?direct=1 to go past the page cache, and %3F for a ? "
            "in a path.",
        )
    return FileAddress(Path(path), direct=bool(query))
