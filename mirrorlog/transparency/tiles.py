"""The files of a tiled transparency log, as https://c2sp.org/tlog-tiles defines them. Pure.

    checkpoint             the newest signed checkpoint
    tile/<L>/<N>           256 hashes: at level 0 those of leaves, above it those of full tiles
    tile/entries/<N>       the 256 leaves themselves, each behind its length
    tile/…/<N>.p/<W>       the last one of its level, with W of them

All but the checkpoint are written once and never change: a folder, a bucket or any HTTP server
serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from mirrorlog.errors import StateDamaged
from mirrorlog.transparency.merkle import HASH_BYTES, complete_root

TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
CHECKPOINT_FILE: Final = "checkpoint"
HEAD_FILE: Final = "tree-head"
"""The text of a checkpoint of the whole tree, as it was made durable last. Nobody signed it."""
_LENGTH_BYTES: Final = 2
MAX_ENTRY_BYTES: Final = 0xFFFF

REBUILD: Final = (
    "Restore the tree's files from a copy. If there is none, the commands make them again as long "
    "as they are kept: move the tree's folder away."
)
"""What to do if a file of a tree is damaged."""

ReadFile: TypeAlias = Callable[[str], bytes | None]
"""Returns the content of a file of the log, by its path; None if there is no such file."""


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a tile with `width` hashes."""
    return f"tile/{level}/{_numbered(index, width)}"


def bundle_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of the bundle with `width` entries."""
    return f"tile/entries/{_numbered(index, width)}"


def _numbered(index: int, width: int) -> str:
    digits = f"{index % 1000:03}"
    index //= 1000
    while index:
        digits = f"x{index % 1000:03}/{digits}"
        index //= 1000
    return digits if width == TILE_WIDTH else f"{digits}.p/{width}"


def tile_width(level: int, index: int, size: int) -> int:
    """Return how many hashes the tile has in a log of `size` leaves: 0 to TILE_WIDTH."""
    hashes = size >> (TILE_HEIGHT * level)
    return max(0, min(TILE_WIDTH, hashes - index * TILE_WIDTH))


def bundle_bytes(entries: Sequence[bytes]) -> bytes:
    """Return a bundle of entries, each at most MAX_ENTRY_BYTES long."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def read_bundle(bundle: bytes, *, where: str) -> Iterator[bytes]:
    """Yield the entries of a bundle. Raise StateDamaged if it is cut short."""
    place = 0
    while place < len(bundle):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(bundle[place:start], "big")
        if place > len(bundle) or start > len(bundle):
            raise StateDamaged("a bundle of entries is cut short", where=where, next=REBUILD)
        yield bundle[start:place]


class TiledLog:
    """A log of `size` leaves, read from its files (merkle.SubtreeHashes).

    What a file holds is believed: compare `range_root(log, 0, size)` with a signed root, and check
    each proof against that root.
    """

    def __init__(self, read: ReadFile, size: int, *, where: str) -> None:
        """read: reads a file of the log. where: names the log's folder, for errors."""
        self.size: Final = size
        self._read, self._where = read, where
        self._tile = lru_cache(maxsize=1024)(self._read_tile)

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of the leaves [index * 2**level, (index + 1) * 2**level).

        Raise StateDamaged if the tile that holds it is missing.
        """
        tile_level, inner = divmod(level, TILE_HEIGHT)
        first = index << inner
        tile_index, place = divmod(first, TILE_WIDTH)
        hashes = self._tile(tile_level, tile_index)[place : place + (1 << inner)]
        return complete_root(hashes)

    def tile(self, level: int, index: int) -> list[bytes]:
        """Return the hashes in a tile, as many as it has at this size."""
        return list(self._tile(level, index))

    def entries(self, index: int) -> list[bytes]:
        """Return the entries of a bundle, as many as it has at this size. Raise StateDamaged."""
        width = tile_width(0, index, self.size)
        content, path = self._file(bundle_path(index, width), bundle_path(index))
        entries = list(read_bundle(content, where=f"{self._where}/{path}"))
        if len(entries) < width:
            raise StateDamaged(
                "a bundle lacks entries", where=f"{self._where}/{path}", next=REBUILD
            )
        return entries[:width]

    def entry(self, index: int) -> bytes:
        """Return the leaf with this index. Raise StateDamaged."""
        return self.entries(index // TILE_WIDTH)[index % TILE_WIDTH]

    def _read_tile(self, level: int, index: int) -> tuple[bytes, ...]:
        width = tile_width(level, index, self.size)
        content, path = self._file(tile_path(level, index, width), tile_path(level, index))
        if len(content) < width * HASH_BYTES:
            raise StateDamaged("a tile lacks hashes", where=f"{self._where}/{path}", next=REBUILD)
        return tuple(
            content[place : place + HASH_BYTES]
            for place in range(0, width * HASH_BYTES, HASH_BYTES)
        )

    def _file(self, path: str, full: str) -> tuple[bytes, str]:
        """Return the file at `path`, or the full one, which replaces it, and its path."""
        for name in dict.fromkeys((path, full)):
            if (content := self._read(name)) is not None:
                return content, name
        raise StateDamaged(
            "a file of the tree is missing", where=f"{self._where}/{path}", next=REBUILD
        )
