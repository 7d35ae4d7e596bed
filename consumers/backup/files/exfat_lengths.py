"""How many bytes of the files in a folder of exFAT were written: the rest of each is zeros.

The Sleuth Kit doesn't tell, and reads what the clusters held before. Source: Microsoft, "exFAT file
system specification", 7.4, 7.6 and 7.7; findings/pytsk3-reads-what-exfat-never-wrote.sh shows it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

_ENTRY_BYTES: Final = 32
_FILE, _STREAM, _NAME = 0x85, 0xC0, 0xC1


def written_lengths(folder: bytes) -> Mapping[bytes, int]:
    """Return the written bytes (ValidDataLength) of each file by its name in UTF-8. Pure.

    folder: the content of a folder.
    """
    lengths: dict[bytes, int] = {}
    for at in range(0, len(folder) - _ENTRY_BYTES, _ENTRY_BYTES):
        if folder[at] != _FILE:
            continue
        count = folder[at + 1]
        entries = [
            folder[start : start + _ENTRY_BYTES]
            for start in range(at + _ENTRY_BYTES, at + (1 + count) * _ENTRY_BYTES, _ENTRY_BYTES)
        ]
        if not entries or not entries[0] or entries[0][0] != _STREAM:
            continue
        units = b"".join(entry[2:] for entry in entries[1:] if entry[:1] == bytes([_NAME]))
        name = units[: 2 * entries[0][3]].decode("utf-16-le", "replace").encode()
        lengths[name] = int(struct.unpack_from("<Q", entries[0], 8)[0])
    return lengths
