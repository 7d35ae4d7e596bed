"""A log that grows: its new leaves become files, and its root. Pure.

Files of complete tiles come once. The last tile of each level and the last bundle come at each
commit, as partial files under the names of their widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from mirrorlog.errors import StateDamaged
from mirrorlog.transparency.merkle import complete_root, folded_root, leaf_hash, power_groups
from mirrorlog.transparency.tiles import (
    REBUILD,
    TILE_HEIGHT,
    TILE_WIDTH,
    ReadFile,
    TiledLog,
    bundle_bytes,
    bundle_path,
    tile_path,
    tile_width,
)


class GrowingLog:
    """The right edge of a log: the hashes and entries of its last tiles, which aren't full."""

    def __init__(self) -> None:
        """Begin an empty log."""
        self.size = 0
        self._levels: list[list[bytes]] = [[]]
        self._entries: list[bytes] = []
        self._full: dict[str, bytes] = {}
        self._partial: set[str] = set()

    @classmethod
    def restored(cls, read: ReadFile, size: int, root: bytes, *, where: str) -> Self:
        """Return the log of `size` leaves from its files.

        Raise StateDamaged if a file is missing, or if the files don't have this root.
        """
        log = cls()
        files = TiledLog(read, size, where=where)
        log.size = size
        level = 0
        while size >> (TILE_HEIGHT * level):
            index = (size >> (TILE_HEIGHT * level)) // TILE_WIDTH
            width = tile_width(level, index, size)
            log._set_level(level, files.tile(level, index) if width else [])
            level += 1
        if tile_width(0, size // TILE_WIDTH, size):
            log._entries = files.entries(size // TILE_WIDTH)
        entry_hashes = [leaf_hash(entry) for entry in log._entries]
        if log.root != root or entry_hashes != log._levels[0]:
            raise StateDamaged(
                f"the files of the tree don't have the root that was noted at {size} leaves",
                where=where,
                next=REBUILD,
            )
        log._partial = set(log._partial_files())
        return log

    @property
    def root(self) -> bytes:
        """The root of all leaves so far."""
        subtrees = [root for hashes in reversed(self._levels) for root in power_groups(hashes)]
        return folded_root(subtrees)

    def append(self, entries: Sequence[bytes], hashes: Sequence[bytes]) -> None:
        """Add leaves. hashes: the leaf hash of each entry."""
        self._entries += entries
        self._levels[0] += hashes
        first = self.size // TILE_WIDTH
        self.size += len(entries)
        while len(self._entries) >= TILE_WIDTH:
            self._full[bundle_path(first)] = bundle_bytes(self._entries[:TILE_WIDTH])
            del self._entries[:TILE_WIDTH]
            first += 1
        level = 0
        while len(self._levels[level]) >= TILE_WIDTH:
            self._close_tiles(level)
            level += 1

    def _close_tiles(self, level: int) -> None:
        """Make files of the full tiles of a level, and hand their roots to the level above."""
        hashes = self._levels[level]
        self._set_level(level + 1, self._levels[level + 1] if level + 1 < len(self._levels) else [])
        last = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH
        index = last - len(hashes) // TILE_WIDTH
        while len(hashes) >= TILE_WIDTH:
            tile = hashes[:TILE_WIDTH]
            del hashes[:TILE_WIDTH]
            self._full[tile_path(level, index)] = b"".join(tile)
            self._levels[level + 1].append(complete_root(tile))
            index += 1

    def commit(self) -> dict[str, bytes]:
        """Return the files that the log needs at its size and that earlier commits didn't return.

        By path. All of them must be durable before anything names this size. No file of an earlier
        size is among them: a crash while they are written damages nothing that is named already.
        """
        files, self._full = self._full, {}
        partial = self._partial_files()
        files |= {path: content for path, content in partial.items() if path not in self._partial}
        self._partial = set(partial)
        return files

    def _partial_files(self) -> dict[str, bytes]:
        """Return the last tile of each level and the last bundle, if they aren't full or empty."""
        files = {}
        for level, hashes in enumerate(self._levels):
            if hashes:
                index = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH
                files[tile_path(level, index, len(hashes))] = b"".join(hashes)
        if self._entries:
            path = bundle_path(self.size // TILE_WIDTH, len(self._entries))
            files[path] = bundle_bytes(self._entries)
        return files

    def _set_level(self, level: int, hashes: list[bytes]) -> None:
        if level == len(self._levels):
            self._levels.append(hashes)
        else:
            self._levels[level] = hashes
