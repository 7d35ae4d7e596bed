"""Digests of the pieces of an image's file, which lie beside it: what tells damage from data. Pure.

`qemu-img check` says nothing of a flipped byte in the data or in an entry of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirrorlog.consumers.verify.range_digests import digest_function
from mirrorlog.domain.verifications import DigestAlgorithm

DATA_PIECE_BYTES: Final = 4 << 20
TABLE_PIECE_BYTES: Final = 128 << 10
MAX_DATA_PIECES: Final = 1 << 14
MAX_TABLE_PIECES: Final = 1 << 10

digest: Final = digest_function(DigestAlgorithm.XXH3_128)
"""Returns the 16 bytes of a piece: it finds damage, and no forgery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDigests:
    """The digests of a file of `file_bytes` bytes, each of 16 bytes in hexadecimal.

    head: of the first `head_bytes` bytes: the header, the table of level 1, and the refcounts.
    tables: of the pieces of `table_piece_bytes` from there on to `data_offset`. data: of the pieces
    of `data_piece_bytes` from `data_offset` to the end. The last piece of each may be shorter.
    """

    file_bytes: int
    head_bytes: int
    data_offset: int
    table_piece_bytes: int
    data_piece_bytes: int
    head: str
    tables: tuple[str, ...]
    data: tuple[str, ...]


def piece_bytes(total_bytes: int, *, least_bytes: int, max_pieces: int) -> int:
    """Return the size of the pieces of a part of a file: no more than `max_pieces` of them."""
    size = least_bytes
    while -(-total_bytes // size) > max_pieces:
        size *= 2
    return size
