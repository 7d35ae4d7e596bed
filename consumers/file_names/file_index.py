"""The index: each byte of a volume belongs to one owner, or to the few that share it.

It is a list of edges: the range between two edges has one number of an owner. So a question is a
bisection, and the answer's lengths add up to those of the question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.file_names.name_table import NameTable
from mirrorlog.consumers.file_names.owners import (
    IGNORE_CASE,
    NAMED,
    Area,
    Owner,
    OwnerKind,
    OwnerTable,
)

Int64s = npt.NDArray[np.int64]


class Pieces(NamedTuple):
    """Ranges of a question, cut where their owner changes. Columns of one length.

    rows: the range of the question. starts, lengths: bytes. owners: numbers for FileIndex.owners().
    """

    rows: Int64s
    starts: Int64s
    lengths: Int64s
    owners: Int64s


@dataclass(frozen=True)
class FileIndex:
    """What every byte of a volume belonged to at one time.

    edges: of n ranges, n + 1 bytes, ascending, from 0 on.
    owner_numbers: of each range, the place in `all_owners`; or, counted from their number on, in
        `groups`.
    groups: places in `all_owners` of owners that share ranges.
    began_at_us, read_at_us: when reading the device began and ended, by this machine's clock.
    """

    edges: Int64s
    owner_numbers: Int64s
    all_owners: OwnerTable
    groups: tuple[tuple[int, ...], ...]
    areas: tuple[Area, ...]
    names: NameTable
    began_at_us: int
    read_at_us: int

    def __post_init__(self) -> None:
        """Raise ValueError for columns that aren't as the class says."""
        known = len(self.all_owners)
        numbers = self.owner_numbers
        if (
            len(self.edges) != len(numbers) + 1
            or not len(numbers)
            or int(self.edges[0]) != 0
            or bool(np.any(np.diff(self.edges) <= 0))
            or bool(np.any((numbers < 0) | (numbers >= known + len(self.groups))))
            or any(not 0 <= owner < known for group in self.groups for owner in group)
            or bool(np.any(self.all_owners.areas < -1))
            or bool(np.any(self.all_owners.areas >= len(self.areas)))
        ):
            raise ValueError("the columns of the index contradict each other")

    @property
    def size_bytes(self) -> int:
        """The bytes that the index covers."""
        return int(self.edges[-1])

    def covering(self, size_bytes: int) -> FileIndex:
        """Return the index for a volume of that size: what the device lacks is NOT_THERE."""
        if size_bytes <= self.size_bytes:
            return self
        known = len(self.all_owners)
        numbers = np.where(self.owner_numbers >= known, self.owner_numbers + 1, self.owner_numbers)
        return replace(
            self,
            edges=np.append(self.edges, size_bytes),
            owner_numbers=np.append(numbers, known),
            all_owners=self.all_owners.with_owner(Owner(kind=OwnerKind.NOT_THERE)),
        )

    def pieces(self, offsets: Int64s, lengths: Int64s) -> Pieces:
        """Return the ranges of a question, each longer than 0 and inside the index, as pieces.

        Raise ValueError for a range outside the index.
        """
        ends = offsets + lengths
        if len(offsets) and (int(offsets.min()) < 0 or int(ends.max()) > self.size_bytes):
            raise ValueError(f"a range lies outside the {self.size_bytes} bytes of the index")
        first = np.searchsorted(self.edges, offsets, "right") - 1
        counts = np.searchsorted(self.edges, ends, "left") - first
        rows = np.repeat(np.arange(len(offsets)), counts)
        places = first[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.maximum(self.edges[places], offsets[rows])
        piece_ends = np.minimum(self.edges[places + 1], ends[rows])
        return Pieces(rows, starts, piece_ends - starts, self.owner_numbers[places])

    def owners(self, number: int) -> tuple[Owner, ...]:
        """Return the owner with that number, or the owners that share the range."""
        known = len(self.all_owners)
        if number < known:
            return (self.all_owners[number],)
        return tuple(self.all_owners[owner] for owner in self.groups[number - known])

    def paths(self, owner: Owner) -> list[bytes]:
        """Return the paths of a file, of the file that a block map describes, and the like.

        The root folder's is `/`. Owners of other kinds have none.
        """
        if owner.kind not in NAMED or owner.area < 0:
            return []
        if owner.first_inode == self.areas[owner.area].root_inode:
            return [b"/"]
        return self.names.paths(owner.area, owner.first_inode)

    def inodes_within(self, owner: Owner, *, start: int, length: int) -> tuple[int, int] | None:
        """Return the first and last inode that a part of an inode table holds; None for others.

        start: a byte of the volume, in the table.
        """
        if owner.kind is not OwnerKind.INODES or owner.area < 0:
            return None
        inode_bytes = self.areas[owner.area].inode_bytes
        if inode_bytes <= 0:
            return None
        first = owner.first_inode + (start - owner.begin) // inode_bytes
        last = owner.first_inode + (start + length - 1 - owner.begin) // inode_bytes
        return first, min(last, owner.last_inode)

    def extents_of(self, path: bytes) -> tuple[Int64s, Int64s]:
        """Return offsets and lengths, ascending, of all that a file has of its own.

        These are its data, its block map and its attributes. There are none if there is no such
        path, or if all of the file lies in its inode.
        """
        table = self.all_owners
        is_its = np.zeros(len(table), bool)
        for area, inode in self.inodes_of(path):
            is_its |= (table.areas == area) & (table.first_inodes == inode)
        is_its &= table.has_kind(NAMED | {OwnerKind.JOURNAL})
        return self._ranges(np.flatnonzero(is_its))

    def inode_entries_of(self, path: bytes) -> tuple[Int64s, Int64s]:
        """Return offsets and lengths, ascending, of the entries of a file in tables of inodes."""
        table, places = self.all_owners, []
        is_table = table.has_kind(frozenset({OwnerKind.INODES}))
        for area, inode in self.inodes_of(path):
            inode_bytes = self.areas[area].inode_bytes
            holds = is_table & (table.areas == area) & (inode_bytes > 0)
            holds &= (table.first_inodes <= inode) & (inode <= table.last_inodes)
            for number in np.flatnonzero(holds):
                passed = inode - int(table.first_inodes[number])
                places.append((int(table.begins[number]) + passed * inode_bytes, inode_bytes))
        entries = np.array(sorted(places), np.int64).reshape(-1, 2)
        return entries[:, 0].copy(), entries[:, 1].copy()

    def inodes_of(self, path: bytes) -> set[tuple[int, int]]:
        """Return (area, inode) of the files with a path, in every file system of the volume.

        File systems of Windows ignore case, where no file has the path exactly as it is written.
        """
        if path.strip(b"/"):
            return self.names.inodes_of(path) or {
                (area, inode)
                for area, inode in self.names.inodes_of(path, ignores_case=True)
                if self.areas[area].type_name in IGNORE_CASE
            }
        return {
            (place, area.root_inode)
            for place, area in enumerate(self.areas)
            if area.root_inode >= 0
        }

    def _ranges(self, owners: Int64s) -> tuple[Int64s, Int64s]:
        known, wanted = len(self.all_owners), set(owners.tolist())
        groups = [
            known + place for place, group in enumerate(self.groups) if wanted.intersection(group)
        ]
        is_its = np.isin(self.owner_numbers, np.concatenate((owners, np.array(groups, np.int64))))
        starts, ends = self.edges[:-1][is_its], self.edges[1:][is_its]
        return starts, ends - starts
