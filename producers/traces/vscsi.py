"""vscsi version 1: recordings of VMware's vscsiStats for CloudPhysics.

Each request has 32 bytes, and there is no header. The fields are little-endian: u32 serial, u32
length (bytes), u32 scatter-gather count, u16 SCSI opcode, u16 version, u64 logical block address
(of 512 bytes), u64 time (microseconds). SBC-4 has the opcodes. The disk isn't named.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from mirrorlog.producers.traces.request import (
    SECTOR_BYTES,
    MalformedRecord,
    RequestKind,
    TracedRequest,
    TraceFormat,
    transfer,
)

_RECORD: Final = struct.Struct("<4xI4xHHQQ")
_VERSION: Final = 0x0100
_KINDS: Final = {
    **dict.fromkeys((0x08, 0x28, 0xA8, 0x88), RequestKind.READ),  # READ(6), (10), (12), (16)
    **dict.fromkeys((0x0A, 0x2A, 0xAA, 0x8A), RequestKind.WRITE),  # WRITE(6), (10), (12), (16)
}


def _recognizes(head: bytes) -> bool:
    whole = head[: len(head) - len(head) % _RECORD.size]
    return any(
        opcode in _KINDS and version == _VERSION
        for _, opcode, version, _, _ in _RECORD.iter_unpack(whole[: 64 * 32])
    )


def _read(records: Iterator[bytes], volume: str) -> Iterator[TracedRequest]:
    for record in records:
        length, opcode, version, block, time_us = _RECORD.unpack(record)
        if version != _VERSION:
            raise MalformedRecord(
                f"version 0x{version:04x} of a vscsi record is unknown; "
                f"version 0x{_VERSION:04x} is known"
            )
        kind = _KINDS.get(opcode)
        if kind is None:
            raise MalformedRecord(f"SCSI opcode 0x{opcode:02x} is neither a read nor a write")
        yield from transfer(
            volume, kind, offset=block * SECTOR_BYTES, length=length, time_us=time_us
        )


FORMAT: Final = TraceFormat("vscsi", _recognizes, _read, record_bytes=_RECORD.size)
