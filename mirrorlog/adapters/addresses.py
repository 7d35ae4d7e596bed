"""Addresses of devices, and the one place that opens what they name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import hold_image
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice

SCHEMES: Final = ("file",)


@dataclass(frozen=True, slots=True)
class FileAddress:
    """What an address names. direct: past the page cache (O_DIRECT)."""

    path: Path
    direct: bool = False

    @property
    def uri(self) -> str:
        """It as a URI, from whatever folder it is read."""
        return self.path.absolute().as_uri() + ("?direct=1" if self.direct else "")


def open_device(address: str, *, writable: bool) -> BlockDevice:
    """Open `file:///absolute/path` (RFC 8089), the same with `?direct=1`, or a plain path. BadUse for any other scheme."""
    return _opened(file_address(address), writable=writable)


def open_primary(address: str, *, exclusive: bool, direct: bool = False) -> FileDevice:
    """What open_device() opens, for writing. exclusive: nobody else on this machine writes to it, see hold_image().

    BadUse where somebody does.
    """
    found = file_address(address)
    device = _opened(replace(found, direct=direct or found.direct), writable=True)
    try:
        if exclusive:
            hold_image(device.fileno(), device.address)
    except BaseException:
        device.close()
        raise
    return device


def _opened(address: FileAddress, *, writable: bool) -> FileDevice:
    if address.direct:
        return DirectDevice(address.path, writable=writable)
    return FileDevice(address.path, writable=writable)


def path_of(address: str) -> Path:
    """The path that a file address or a plain path names; BadUse where it names none."""
    return file_address(address).path


def file_address(address: str) -> FileAddress:
    """What a file address or a plain path names; BadUse where it names nothing."""
    if not address or "\0" in address:
        raise BadUse(
            f"{address!r} isn't the address of a device",
            next="Write file:///absolute/path or a plain path.",
        )
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|file:/", address):
        return FileAddress(Path(address))
    address, query, option = address.partition("?")
    scheme = address.partition(":")[0].lower()
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
            next="Write file:///absolute/path?direct=1 to go past the page cache; %3F for a ? in a path.",
        )
    return FileAddress(Path(path), direct=bool(query))
