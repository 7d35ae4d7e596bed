"""NVMe commands of an I/O queue.

NVM Command Set Specification 1.0c, section 3.2, and Base 2.0, "Submission Queue Entry", describe
them. An entry has 64 bytes and is little-endian: the opcode is in byte 0, and CDW10 begins at byte
40. The commands' counts of logical blocks are zero-based, but those in the ranges of Dataset
Management aren't. In an admin queue the same opcodes have other meanings (Format NVM, Sanitize).
Such commands must not be interpreted here: mark the volume dirty for them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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

_ENTRY: Final = struct.Struct("<40xQII8x")  # CDW10 and CDW11 as one number, CDW12, CDW13
_READ_ONLY: Final = {
    0x00: "Flush",
    0x02: "Read",
    0x05: "Compare",
    0x0C: "Verify",
    0x0D: "Reservation Register",
    0x0E: "Reservation Report",
    0x11: "Reservation Acquire",
    0x12: "I/O Management Receive",
    0x15: "Reservation Release",
    0x18: "Cancel",  # The command that it cancels was interpreted before.
    0x7A: "Zone Management Receive",
}
_DEALLOCATE: Final = 1 << 25
"""DEAC in CDW12 of Write Zeroes."""
_NAMESPACE_ZEROES: Final = 1 << 23
"""NSZ in CDW12 of Write Zeroes (NVM Command Set 1.1): zero the whole namespace, for any range."""
_ATTRIBUTE_DEALLOCATE: Final = 1 << 2
"""AD in CDW11 of Dataset Management. The other attributes are hints."""
_RANGE: Final = struct.Struct("<4xIQ")
"""A range of Dataset Management: context attributes, length in blocks, starting block."""
_SOURCES: Final = {
    0: struct.Struct("<16xH14x"),
    1: struct.Struct("<16xH22x"),
    2: struct.Struct("<16xH14x"),
    3: struct.Struct("<16xH22x"),
}
"""A source range of Copy, by its descriptor format, with its zero-based count of blocks.

Formats 1 and 3 have longer tags of protection information. Formats 2 and 3 (NVM Command Set 1.1)
are like 0 and 1, from another namespace with blocks of the same size.
"""


def _write(command: bytes, _data: bytes, block_bytes: int) -> Interpretation:
    """Interpret Write (3.2.6) and Write Uncorrectable (3.2.7).

    CDW10 and CDW11 hold the first block, CDW12 bits 15:00 the number of blocks.
    """
    first, dword12, _ = _ENTRY.unpack(command)
    return known_extents([extent(first, (dword12 & 0xFFFF) + 1, unit_bytes=block_bytes)])


def _write_zeroes(command: bytes, _data: bytes, block_bytes: int) -> Interpretation:
    """Interpret Write Zeroes (3.2.8). Its addresses are like those of Write."""
    first, dword12, _ = _ENTRY.unpack(command)
    if dword12 & _NAMESPACE_ZEROES:
        return whole_volume("Write Zeroes zeroes the whole namespace")
    kind = ExtentKind.DISCARD if dword12 & _DEALLOCATE else ExtentKind.ZERO
    return known_extents([extent(first, (dword12 & 0xFFFF) + 1, unit_bytes=block_bytes, kind=kind)])


def _dataset_management(command: bytes, data: bytes, block_bytes: int) -> Interpretation:
    """Interpret Dataset Management (3.2.3).

    CDW10 bits 07:00 hold the zero-based number of ranges, which come as data, 16 bytes each.
    """
    dwords, _, _ = _ENTRY.unpack(command)
    if not (dwords >> 32) & _ATTRIBUTE_DEALLOCATE:
        return read_only()
    size = ((dwords & 0xFF) + 1) * _RANGE.size
    if len(data) < size:
        return whole_volume(
            f"Dataset Management came with {len(data)} bytes of its {size} bytes of ranges"
        )
    ranges = _RANGE.iter_unpack(data[:size])
    return known_extents(
        extent(first, count, unit_bytes=block_bytes, kind=ExtentKind.DISCARD)
        for count, first in ranges
    )


def _copy(command: bytes, data: bytes, block_bytes: int) -> Interpretation:
    """Interpret Copy (3.2.2), which writes its source ranges one after the other from one block on.

    CDW10 and CDW11 hold that block, CDW12 bits 07:00 the zero-based number of source ranges, and
    bits 11:08 their format.
    """
    first, dword12, _ = _ENTRY.unpack(command)
    source = _SOURCES.get((dword12 >> 8) & 0xF)
    if source is None:
        return whole_volume(f"Copy has source ranges of the unknown format {(dword12 >> 8) & 0xF}")
    size = ((dword12 & 0xFF) + 1) * source.size
    if len(data) < size:
        return whole_volume(
            f"Copy came with {len(data)} bytes of its {size} bytes of source ranges"
        )
    return known_extents(
        [
            extent(
                first,
                sum(count + 1 for (count,) in source.iter_unpack(data[:size])),
                unit_bytes=block_bytes,
            )
        ]
    )


_CHANGES: Final[dict[int, Callable[[bytes, bytes, int], Interpretation]]] = {
    0x01: _write,
    0x04: _write,  # Write Uncorrectable: the blocks can't be read until they are written again.
    0x08: _write_zeroes,
    0x09: _dataset_management,
    0x19: _copy,
}


def interpret(command: bytes, data: bytes, block_bytes: int, _size_bytes: int) -> Interpretation:
    """Return what a command changes.

    command: a submission queue entry. data: the data that came with the command.
    """
    if not command:
        return malformed("the NVMe command has no bytes")
    if len(command) > 64:
        return whole_volume(
            f"an NVMe command came with {len(command)} bytes: send one entry of 64 bytes at a time"
        )
    opcode = command[0]
    if opcode in _READ_ONLY:
        return read_only()
    if opcode not in _CHANGES:
        return whole_volume(f"which blocks NVMe opcode {opcode:02x}h changes isn't known")
    if len(command) < 64:
        return whole_volume(f"NVMe command {opcode:02x}h came with {len(command)} of its 64 bytes")
    return _CHANGES[opcode](command, data, block_bytes)
