"""NBD requests (NetworkBlockDevice/nbd, doc/proto.md, "Transmission phase"), in network byte order.

The simple header ("Request message") has 28 bytes: u32 magic, u16 command flags, u16 type, u64
cookie, u64 offset, u32 length. The extended header (branch extension-ext-header, the same section)
has 32 bytes: another magic, and a u64 length. Offsets and lengths are in bytes. The section
"Request types" has the types.
"""

from __future__ import annotations

import struct
from typing import Final

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.wire.outcome import (
    Interpretation,
    extent,
    known_extents,
    malformed,
    read_only,
    whole_volume,
)

_HEADERS: Final = {
    bytes.fromhex("25609513"): struct.Struct(">4xHH8xQI"),  # NBD_REQUEST_MAGIC
    bytes.fromhex("21e41c71"): struct.Struct(">4xHH8xQQ"),  # NBD_EXTENDED_REQUEST_MAGIC
}
_READ_ONLY: Final = {
    0: "READ",
    2: "DISC",
    3: "FLUSH",
    5: "CACHE",
    7: "BLOCK_STATUS",
}
_CHANGES: Final = {
    1: ExtentKind.WRITE,  # WRITE
    4: ExtentKind.DISCARD,  # TRIM: the range's content is undefined afterwards
    6: ExtentKind.ZERO,  # WRITE_ZEROES: reads as zeros, even if it punches a hole
}
_WRITE: Final = 1
_PAYLOAD_LEN: Final = 1 << 5
"""In an extended header: `length` is of a payload, and not of the range of the export."""


def interpret(command: bytes) -> Interpretation:
    """Return what a request changes. `command` is its header, without its payload."""
    if not command:
        return malformed("the NBD request has no bytes")
    header = next(
        (header for magic, header in _HEADERS.items() if magic.startswith(command[:4])), None
    )
    if header is None:
        return malformed(f"NBD magic {command[:4].hex()} is unknown; a server ends the connection")
    if len(command) != header.size:
        return whole_volume(
            f"an NBD request came with {len(command)} bytes, but a header without its payload has "
            f"{header.size}"
        )
    flags, kind, offset, length = header.unpack(command)
    if kind in _READ_ONLY:
        return read_only()
    if kind not in _CHANGES:
        return whole_volume(f"NBD request type {kind} is unknown")
    if flags & _PAYLOAD_LEN and kind != _WRITE:
        return whole_volume(
            f"NBD request type {kind} came with a payload, and how that names a range isn't known"
        )
    return known_extents([extent(offset, length, unit_bytes=1, kind=_CHANGES[kind])])
