"""Says what lies where no file system can be read, by the signatures of well-known formats."""

from __future__ import annotations

from typing import Final, NamedTuple

from mirrorlog.consumers.file_names.layout_reading import ReadAt


class Signature(NamedTuple):
    """Bytes at a place from which a format is known."""

    at: int
    data: bytes
    name: str


SIGNATURES: Final = (
    Signature(0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    *(Signature(at, b"LABELONE", "a physical volume of LVM") for at in (0, 512, 1024, 1536)),
    Signature(65_600, b"_BHRfS_M", "btrfs"),
    Signature(4086, b"SWAPSPACE2", "swap space"),
    Signature(4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID (md)"),
    Signature(3, b"-FVE-FS-", "an encrypted volume (BitLocker)"),
    Signature(32, b"NXSB", "APFS"),
    Signature(1080, b"\x53\xef", "an ext file system that is damaged"),
    Signature(0x8001, b"CD001", "ISO 9660"),
)
"""The first one that is there names what is there."""
_LOOKED_AT_BYTES: Final = 1 << 17


def what_is_there(read: ReadAt) -> str:
    """Return what lies there, in words."""
    data = read(0, _LOOKED_AT_BYTES)
    for signature in SIGNATURES:
        if data[signature.at : signature.at + len(signature.data)] == signature.data:
            return signature.name
    if not data.strip(b"\0"):
        return f"zeros in the first {len(data) >> 10} KiB"
    return "an unknown format"
