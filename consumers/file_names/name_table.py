"""The names of files by inode: each with the name of its folder, so that paths are made when asked.

Names are bytes: file systems keep bytes, and no encoding of them is certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

ROOT: Final = -1
"""The parent of a name in a root folder."""
MAX_DEPTH: Final = 4_096


@dataclass(frozen=True)
class NameTable:
    """Names in columns of one length. The table isn't changed after it is made.

    text: all names, one after another.
    areas: the place of the file system's Area. inodes: of the files.
    parents: by row, the row of the name of the folder; ROOT in a root folder. It is a lower row.
    ends: where each name ends in `text`.
    """

    text: bytes
    areas: Int64s
    inodes: Int64s
    parents: Int64s
    ends: Int64s

    def __post_init__(self) -> None:
        """Raise ValueError for columns that aren't as the class says."""
        rows = np.arange(len(self.inodes))
        starts = np.concatenate(([0], self.ends))[:-1]
        if (
            len({len(column) for column in (self.areas, self.inodes, self.parents, self.ends)}) > 1
            or bool(np.any((self.parents < ROOT) | (self.parents >= rows)))
            or bool(np.any(self.ends < starts))
            or (len(rows) and self.ends[-1] != len(self.text))
        ):
            raise ValueError("the columns of names contradict each other")

    def __len__(self) -> int:
        return len(self.inodes)

    def name(self, row: int) -> bytes:
        """Return the name in a row, without its folder."""
        start = int(self.ends[row - 1]) if row else 0
        return self.text[start : int(self.ends[row])]

    def path(self, row: int) -> bytes:
        """Return the absolute path of the name in a row."""
        parts: list[bytes] = []
        while row != ROOT and len(parts) < MAX_DEPTH:
            parts.append(self.name(row))
            row = int(self.parents[row])
        return b"/" + b"/".join(reversed(parts))

    def paths(self, area: int, inode: int) -> list[bytes]:
        """Return every path of a file, in the order of the table; none for an unknown inode.

        A root folder has the path `/`, and no row.
        """
        if area not in self._by_area:
            return []
        order, inodes = self._by_area[area]
        first, end = (int(np.searchsorted(inodes, inode, side)) for side in ("left", "right"))
        return [self.path(int(row)) for row in order[first:end]]

    def inodes_of(self, path: bytes, *, ignores_case: bool = False) -> set[tuple[int, int]]:
        """Return (area, inode) of the files with a path.

        ignores_case: letters of both cases are equal. Otherwise bytes are compared.
        """
        change = _folded if ignores_case else bytes
        rows: Sequence[int] = [ROOT]
        for part in filter(None, path.split(b"/")):
            wanted = change(part)
            children = np.flatnonzero(np.isin(self.parents, np.array(rows, np.int64)))
            rows = [int(row) for row in children if change(self.name(int(row))) == wanted]
        return {(int(self.areas[row]), int(self.inodes[row])) for row in rows if row != ROOT}

    @cached_property
    def _by_area(self) -> dict[int, tuple[Int64s, Int64s]]:
        """By area, its rows in the order of their inodes, and these inodes."""
        parts = {}
        for area in np.unique(self.areas).tolist():
            rows = np.flatnonzero(self.areas == area)
            order = rows[np.argsort(self.inodes[rows], kind="stable")]
            parts[area] = order, self.inodes[order]
        return parts


def _folded(name: bytes) -> bytes:
    return name.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")


@dataclass
class NameTableBuilder:
    """Collects names for a NameTable."""

    _rows: list[tuple[int, int, int]] = field(default_factory=list)
    _names: list[bytes] = field(default_factory=list)

    def add(self, name: bytes, *, area: int, inode: int, parent: int) -> int:
        """Add a name, and return its row. parent: the row of its folder, or ROOT."""
        self._rows.append((area, inode, parent))
        self._names.append(name)
        return len(self._names) - 1

    def result(self) -> NameTable:
        """Return the table of all names added."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        lengths = np.fromiter(map(len, self._names), np.int64, len(self._names))
        return NameTable(
            areas=rows[:, 0].copy(),
            inodes=rows[:, 1].copy(),
            parents=rows[:, 2].copy(),
            ends=np.cumsum(lengths),
            text=b"".join(self._names),
        )


def shown_name(path: bytes) -> str:
    r"""Return a path as text. A byte that isn't UTF-8 is written as `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def is_exact(path: bytes) -> bool:
    """Return whether shown_name() is the path itself, byte for byte."""
    return shown_name(path).encode() == path


def sorted_paths(paths: Iterator[bytes]) -> list[bytes]:
    """Return paths in the order of their bytes, without repetition."""
    return sorted(set(paths))
