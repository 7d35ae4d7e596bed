"""SCSI CDBs for a direct access block device, big-endian.

SBC-4, clause 5, and SPC-5, clause 6, have the layouts, each under the name of its command. The same
clauses of SBC-2 and SBC-3 have what later editions dropped (WRITE(6), XDWRITE, WRITE LONG with
data, RELADR). The numbers of subclauses change with each edition.

The tables name a command by its opcode (one byte), by its opcode and the service action in byte 1
bits 4-0 (two bytes), or, for a variable length CDB, by its opcode and the service action in bytes
8-9 (three bytes). A command that no table names may change any block. Protection information
(WRPROTECT) doesn't change the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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

_CDB_BYTES: Final = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
"""The length by group code, which is in bits 7-5 of the opcode (SPC-5, GROUP CODE field).

Group 3 has forms of its own, and groups 6 and 7 are vendor specific.
"""
_VARIABLE: Final = 0x7F
_VARIABLE_BYTES: Final = 32
"""The length of all variable length CDBs in the tables: ADDITIONAL CDB LENGTH, byte 7, is 18h."""
_TRANSPORT_BYTES: Final = 16
"""FCP, iSCSI and SRP carry a CDB in a field of this size. Bytes after a shorter CDB are padding."""
_WITH_SERVICE_ACTION: Final = frozenset(
    (0x83, 0x84, 0x94, 0x95, 0x9D, 0x9E, 0x9F, 0xA3, 0xA4, 0xA9, 0xAB)
)

_READ_ONLY: Final = {
    0x00: "TEST UNIT READY",
    0x03: "REQUEST SENSE",
    0x08: "READ(6)",
    0x0B: "SEEK(6)",
    0x12: "INQUIRY",
    0x16: "RESERVE(6)",
    0x17: "RELEASE(6)",
    0x1A: "MODE SENSE(6)",
    0x1C: "RECEIVE DIAGNOSTIC RESULTS",
    0x1E: "PREVENT ALLOW MEDIUM REMOVAL",
    0x25: "READ CAPACITY(10)",
    0x28: "READ(10)",
    0x2B: "SEEK(10)",
    0x2F: "VERIFY(10)",
    0x34: "PRE-FETCH(10)",
    0x35: "SYNCHRONIZE CACHE(10)",
    0x37: "READ DEFECT DATA(10)",
    0x3C: "READ BUFFER(10)",
    0x3E: "READ LONG(10)",
    0x4C: "LOG SELECT",
    0x4D: "LOG SENSE",
    0x52: "XDREAD(10)",
    0x56: "RESERVE(10)",
    0x57: "RELEASE(10)",
    0x5A: "MODE SENSE(10)",
    0x5E: "PERSISTENT RESERVE IN",
    0x5F: "PERSISTENT RESERVE OUT",
    0x88: "READ(16)",
    0x8C: "READ ATTRIBUTE",
    0x8F: "VERIFY(16)",
    0x90: "PRE-FETCH(16)",
    0x91: "SYNCHRONIZE CACHE(16)",
    0x9B: "READ BUFFER(16)",
    0xA0: "REPORT LUNS",
    0xA2: "SECURITY PROTOCOL IN",
    0xA8: "READ(12)",
    0xAF: "VERIFY(12)",
    0xB7: "READ DEFECT DATA(12)",
    **{
        0x8400 + action: "RECEIVE COPY RESULTS and similar"
        for action in (0x00, 0x01, *range(0x03, 0x09))
    },
    0x9500: "REPORT ZONES",
    # SERVICE ACTION IN. Actions 18h to 1Ah remove elements and rebuild, so they aren't listed.
    0x9E10: "READ CAPACITY(16)",
    0x9E11: "READ LONG(16)",
    0x9E12: "GET LBA STATUS(16)",
    0x9E13: "REPORT REFERRALS",
    0x9E14: "STREAM CONTROL",
    0x9E15: "BACKGROUND CONTROL",
    0x9E16: "GET STREAM STATUS",
    0x9E17: "GET PHYSICAL ELEMENT STATUS",
    0xA305: "REPORT IDENTIFYING INFORMATION",
    0xA30A: "REPORT TARGET PORT GROUPS",
    0xA30B: "REPORT ALIASES",
    0xA30C: "REPORT SUPPORTED OPERATION CODES",
    0xA30D: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    0xA30E: "REPORT PRIORITY",
    0xA30F: "REPORT TIMESTAMP",
    0xA406: "SET IDENTIFYING INFORMATION",
    0xA40A: "SET TARGET PORT GROUPS",
    0xA40B: "CHANGE ALIASES",
    0xA40E: "SET PRIORITY",
    0xA40F: "SET TIMESTAMP",
    0xAB01: "READ MEDIA SERIAL NUMBER",
    0x7F0003: "XDREAD(32)",
    0x7F0009: "READ(32)",
    0x7F000A: "VERIFY(32)",
    0x7F0012: "GET LBA STATUS(32)",
}


@dataclass(frozen=True, slots=True)
class _Command:
    """A CDB with its data, on a medium of `size_bytes` bytes."""

    cdb: bytes
    data: bytes
    block_bytes: int
    size_bytes: int

    def field(self, first_byte: int, width: int) -> int:
        """Return the number in `width` bytes of the CDB."""
        return int.from_bytes(self.cdb[first_byte : first_byte + width], "big")

    def extents(
        self, first: int, count: int, kind: ExtentKind = ExtentKind.WRITE
    ) -> Interpretation:
        """Return a verdict that the command changes `count` blocks from block `first` on."""
        return known_extents([extent(first, count, unit_bytes=self.block_bytes, kind=kind)])


def _write_6(command: _Command) -> Interpretation:
    """Interpret WRITE(6) (SBC-3).

    The address has 21 bits; SCSI-2 has a LUN above them. 0 blocks stand for 256.
    """
    return command.extents(command.field(1, 3) & 0x1FFFFF, command.field(4, 1) or 256)


def _write(command: _Command, lba: tuple[int, int], count: tuple[int, int]) -> Interpretation:
    """Interpret a command with an address and a number of blocks.

    lba, count: their fields, each as (first byte, width). RELADR has a meaning only in CDBs of 10
    and 12 bytes.
    """
    if _is_relative(command):
        return whole_volume("the command has a relative address (RELADR, SCSI-2)")
    return command.extents(command.field(*lba), command.field(*count))


def _is_relative(command: _Command) -> bool:
    return command.cdb[0] >> 5 in (1, 2, 5) and bool(command.cdb[1] & 0x01)


def _write_same(
    command: _Command, flags_at: int, lba: tuple[int, int], count: tuple[int, int]
) -> Interpretation:
    """Interpret WRITE SAME(10), (16) and (32) (SBC-4).

    0 blocks stand for all up to the end of the medium.
    """
    if _is_relative(command):
        return whole_volume("the command has a relative address (RELADR, SCSI-2)")
    first, blocks = command.field(*lba), command.field(*count)
    kind = _same_kind(command, command.cdb[flags_at])
    if blocks:
        return command.extents(first, blocks, kind)
    offset = first * command.block_bytes
    if offset >= command.size_bytes:
        return malformed(
            f"WRITE SAME from block {first} to the end of a medium of {command.size_bytes} bytes"
        )
    return known_extents([extent(offset, command.size_bytes - offset, unit_bytes=1, kind=kind)])


def _same_kind(command: _Command, flags: int) -> ExtentKind:
    """Return the kind of a WRITE SAME. It is ZERO or DISCARD only if zeros are proved.

    NDOB proves them (bit 0: there is no data), and so does a block of zeros that came as data.
    UNMAP (bit 3) alone proves nothing: a device writes the block instead if the unmapped range
    wouldn't read as that block. PBDATA and LBDATA (bits 2 and 1, SBC-2) put addresses into the
    blocks.
    """
    size, block = command.block_bytes, command.data[: command.block_bytes]
    zeros = bool(flags & 0x01) or block.count(0) == size
    if flags & 0x06 or not zeros:
        return ExtentKind.WRITE
    return ExtentKind.DISCARD if flags & 0x08 else ExtentKind.ZERO


def _unmap(command: _Command) -> Interpretation:
    """Interpret UNMAP (SBC-4).

    The parameter list has a header of 8 bytes and descriptors of 16 bytes. Three lengths say where
    it ends: PARAMETER LIST LENGTH in the CDB, and two in the header. Devices differ if the lengths
    contradict each other. One refuses the list, another takes the shortest length, and tgt 1.0.85
    (bs_rdwr.c) looks at none of them, and discards every whole descriptor that the transport
    brought. So every whole descriptor in the data counts. The whole volume counts if a length names
    descriptors that aren't in the data.
    """
    length, data = command.field(7, 2), command.data
    came = len(data[8:]) // 16
    named_bytes = max(
        int.from_bytes(data[0:2], "big") - 6, int.from_bytes(data[2:4], "big"), length - 8
    )
    if len(data) < length or came < named_bytes // 16:
        return whole_volume(
            f"UNMAP came with {len(data)} bytes, and a length of its parameter list names more"
        )
    if 0 < length < 8 and not came:
        return malformed(
            f"UNMAP has a parameter list of {length} bytes, and its header alone has 8"
        )
    return _descriptors(command, at=8, width=16, count=came, kind=ExtentKind.DISCARD)


def _write_scattered(command: _Command, count_at: int) -> Interpretation:
    """Interpret WRITE SCATTERED(16) and (32) (SBC-4).

    The data is a header of 32 bytes, descriptors of 32 bytes, and then the blocks.
    """
    count = command.field(count_at, 2)
    if len(command.data) < 32 * (count + 1) and count:
        return whole_volume(
            f"WRITE SCATTERED came with {len(command.data)} bytes, too few for {count} descriptors"
        )
    return _descriptors(command, at=32, width=32, count=count, kind=ExtentKind.WRITE)


def _descriptors(
    command: _Command, *, at: int, width: int, count: int, kind: ExtentKind
) -> Interpretation:
    """Return the extents of `count` descriptors, which begin at byte `at` of the data.

    Each has `width` bytes, and begins with a u64 address and a u32 number of blocks.
    """
    rows = (command.data[start : start + 12] for start in range(at, at + count * width, width))
    return known_extents(
        extent(
            int.from_bytes(row[:8], "big"),
            int.from_bytes(row[8:], "big"),
            unit_bytes=command.block_bytes,
            kind=kind,
        )
        for row in rows
    )


def _write_long(command: _Command, lba: tuple[int, int]) -> Interpretation:
    """Interpret WRITE LONG(10) and (16) (SBC-3), which write one block.

    With PBLOCK (byte 1 bit 5) it is a physical block, of unknown size.
    """
    if command.cdb[1] & 0x20 or _is_relative(command):
        return whole_volume("WRITE LONG writes a physical block, or has a relative address")
    return command.extents(command.field(*lba), 1)


def _mode_select(
    command: _Command, length: tuple[int, int], descriptors: tuple[int, int]
) -> Interpretation:
    """Interpret MODE SELECT(6) and (10) (SPC-5).

    A block descriptor can change the size and the number of the blocks. A list that came although
    its length is 0 counts, because a device may go by what the transport brought.
    """
    at, width = descriptors
    if not command.field(*length) and not any(command.data):
        return read_only()
    if len(command.data) < at + width or any(command.data[at : at + width]):
        return whole_volume(
            "MODE SELECT has block descriptors, or came without the data that would show them"
        )
    return read_only()


def _start_stop_unit(command: _Command) -> Interpretation:
    """Interpret START STOP UNIT (SBC-4). With LOEJ (byte 4 bit 1) it may exchange the medium."""
    return (
        whole_volume("START STOP UNIT loads or ejects the medium")
        if command.cdb[4] & 0x02
        else read_only()
    )


def _send_diagnostic(command: _Command) -> Interpretation:
    """Interpret SEND DIAGNOSTIC (SPC-5).

    UNITOFFL and DEVOFFL (byte 1 bits 0 and 1) let a self-test write to the medium. Parameters that
    came although their length is 0 count.
    """
    if command.cdb[1] & 0x03 or command.field(3, 2) or any(command.data):
        return whole_volume("SEND DIAGNOSTIC has parameters, or starts a test that may write")
    return read_only()


_Interpreter = Callable[[_Command], Interpretation]
_WRITE_10: Final[_Interpreter] = partial(_write, lba=(2, 4), count=(7, 2))
_WRITE_12: Final[_Interpreter] = partial(_write, lba=(2, 4), count=(6, 4))
_WRITE_16: Final[_Interpreter] = partial(_write, lba=(2, 8), count=(10, 4))
_WRITE_16_SHORT: Final[_Interpreter] = partial(_write, lba=(2, 8), count=(12, 2))
_WRITE_32: Final[_Interpreter] = partial(_write, lba=(12, 8), count=(28, 4))

_INTERPRETERS: Final[dict[int, _Interpreter]] = {
    0x0A: _write_6,
    0x15: partial(_mode_select, length=(4, 1), descriptors=(3, 1)),
    0x1B: _start_stop_unit,
    0x1D: _send_diagnostic,
    0x2A: _WRITE_10,  # WRITE(10)
    0x2E: _WRITE_10,  # WRITE AND VERIFY(10)
    0x3F: partial(_write_long, lba=(2, 4)),
    0x41: partial(_write_same, flags_at=1, lba=(2, 4), count=(7, 2)),
    0x42: _unmap,
    0x50: _WRITE_10,  # XDWRITE(10)
    0x51: _WRITE_10,  # XPWRITE(10)
    0x53: _WRITE_10,  # XDWRITEREAD(10)
    0x55: partial(_mode_select, length=(7, 2), descriptors=(6, 2)),
    0x89: partial(_write, lba=(2, 8), count=(13, 1)),  # COMPARE AND WRITE
    0x8A: _WRITE_16,  # WRITE(16)
    0x8B: _WRITE_16,  # ORWRITE(16)
    0x8E: _WRITE_16,  # WRITE AND VERIFY(16)
    0x93: partial(_write_same, flags_at=1, lba=(2, 8), count=(10, 4)),
    0x9A: _WRITE_16_SHORT,  # WRITE STREAM(16)
    0x9C: _WRITE_16_SHORT,  # WRITE ATOMIC(16)
    0x9F11: partial(_write_long, lba=(2, 8)),
    0x9F12: partial(_write_scattered, count_at=8),
    0xAA: _WRITE_12,  # WRITE(12)
    0xAE: _WRITE_12,  # WRITE AND VERIFY(12)
    0x7F0004: _WRITE_32,  # XDWRITE(32)
    0x7F0006: _WRITE_32,  # XPWRITE(32)
    0x7F0007: _WRITE_32,  # XDWRITEREAD(32)
    0x7F000B: _WRITE_32,  # WRITE(32)
    0x7F000C: _WRITE_32,  # WRITE AND VERIFY(32)
    0x7F000D: partial(_write_same, flags_at=10, lba=(12, 8), count=(28, 4)),
    0x7F000E: _WRITE_32,  # ORWRITE(32)
    0x7F000F: _WRITE_32,  # WRITE ATOMIC(32)
    0x7F0010: _WRITE_32,  # WRITE STREAM(32)
    0x7F0011: partial(_write_scattered, count_at=16),
}
_WHOLE_VOLUME_NAMES: Final = {
    0x04: "FORMAT UNIT",
    0x07: "REASSIGN BLOCKS",
    0x3B: "WRITE BUFFER",
    0x48: "SANITIZE",
    0x7E: "extended CDB",
    0x85: "ATA PASS-THROUGH(16)",
    0x8300: "EXTENDED COPY(LID1)",
    0x8301: "EXTENDED COPY(LID4)",
    0x8310: "POPULATE TOKEN",
    0x8311: "WRITE USING TOKEN",
    0x9E18: "REMOVE ELEMENT AND TRUNCATE",
    0x9E19: "RESTORE ELEMENTS AND REBUILD",
    0xA1: "ATA PASS-THROUGH(12)",
    0xB5: "SECURITY PROTOCOL OUT",
}
"""Names for the text of a verdict. Commands that aren't listed have the same verdict."""


def interpret(cdb: bytes, data: bytes, block_bytes: int, size_bytes: int) -> Interpretation:
    """Return what a command changes on a medium of `size_bytes` bytes.

    cdb: one CDB, with or without the padding of its transport. data: the data-out buffer.
    """
    if not cdb:
        return malformed("the CDB has no bytes")
    code, length = _code(cdb), _length(cdb)
    if any(cdb[max(length, _TRANSPORT_BYTES) :]):
        return whole_volume(
            f"CDB {code:02x}h has {length} bytes and {len(cdb)} came: send one CDB at a time"
        )
    if code in _READ_ONLY:
        return read_only()
    interpreter = _INTERPRETERS.get(code)
    if interpreter is None:
        return whole_volume(
            "which blocks SCSI "
            f"{_WHOLE_VOLUME_NAMES.get(code, 'command')} ({code:02x}h) changes isn't known"
        )
    if len(cdb) < length or (cdb[0] == _VARIABLE and length != _VARIABLE_BYTES):
        return whole_volume(
            f"CDB {code:02x}h was cut off, or has an unusual length: {len(cdb)} bytes"
        )
    return interpreter(_Command(cdb, data, block_bytes, size_bytes))


def _code(cdb: bytes) -> int:
    """Return the command's key in the tables.

    It is the opcode alone, which isn't a key of the tables, if the service action was cut off.
    """
    opcode = cdb[0]
    if opcode == _VARIABLE and len(cdb) >= 10:
        return opcode << 16 | int.from_bytes(cdb[8:10], "big")
    if opcode in _WITH_SERVICE_ACTION and len(cdb) >= 2:
        return opcode << 8 | cdb[1] & 0x1F
    return opcode


def _length(cdb: bytes) -> int:
    """Return the length of the CDB in bytes, by its opcode."""
    if cdb[0] == _VARIABLE:
        return 8 + cdb[7] if len(cdb) > 7 else 10
    return _CDB_BYTES.get(cdb[0] >> 5, len(cdb))
