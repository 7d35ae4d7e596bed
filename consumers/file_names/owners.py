"""What a byte of a volume belongs to: the words in which every part of this package answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


class OwnerKind(StrEnum):
    """What a range of a volume is to the file system that lies there."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "symbolic link"
    FILE_MAP = "block map of a file"
    ATTRIBUTES = "attributes of a file"
    UNNAMED = "file without a name"
    JOURNAL = "journal"
    METADATA = "metadata"
    SUPERBLOCK = "superblock"
    DESCRIPTORS = "group descriptors"
    RESERVED = "reserved group descriptors"
    BLOCK_BITMAP = "block bitmap"
    INODE_BITMAP = "inode bitmap"
    INODES = "inode table"
    FREE = "free"
    UNKNOWN = "neither free nor in a file"
    SHARED = "claimed by too many files"
    PARTITION_TABLE = "partition table"
    NO_PARTITION = "in no partition"
    NOT_READABLE = "not a file system that can be read here"
    AFTER_END = "after the end of the file system"
    NOT_THERE = "not on the device that was read"


KINDS: Final = tuple(OwnerKind)
"""All kinds. The number of a kind is its place in this tuple."""
NAMED: Final = frozenset(
    {
        OwnerKind.FILE,
        OwnerKind.DIRECTORY,
        OwnerKind.LINK,
        OwnerKind.FILE_MAP,
        OwnerKind.ATTRIBUTES,
        OwnerKind.METADATA,
    }
)
"""The kinds whose owner is looked up by its inode, and may have names."""

IGNORE_CASE: Final = frozenset({"NTFS", "FAT12", "FAT16", "FAT32", "exFAT"})
"""The file systems in which a path means the same in both cases of its letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A part of the volume that one file system covers, or that nothing here can read.

    number: 0 for a file system that begins with the volume, otherwise that of the partition.
    start, length: bytes.
    type_name: `ext4`, `NTFS`, …; None if it is none that can be read.
    is_dirty: whether changes may be in its journal, or in a machine's memory, that aren't in the
        mapping. None if the file system doesn't say.
    inode_bytes: the length of an inode in its table; 0 if it has no such table.
    root_inode: the inode of its root folder; -1 if there is none.
    block_bytes: the unit in which it gives space to files.
    notes: what a reader of the answer has to know of it.
    """

    number: int
    start: int
    length: int
    type_name: str | None
    is_dirty: bool | None = None
    inode_bytes: int = 0
    root_inode: int = -1
    block_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One owner of ranges.

    area: the place of its Area in FileIndex.areas; -1 if it is in none.
    first_inode, last_inode: the inodes that are in the range; equal for one file, -1 for none.
    begin: the byte of the volume where the entry of `first_inode` begins, in a table of inodes.
    detail: a stream of the file, or what a range is that no file has; empty if there is nothing to
        say.
    """

    kind: OwnerKind
    area: int = -1
    first_inode: int = -1
    last_inode: int = -1
    begin: int = 0
    detail: str = ""


@dataclass(frozen=True)
class OwnerTable:
    """Owners in columns of one length: an owner is a row, and its number is its place.

    texts: the details. kinds: places in KINDS. details: places in `texts`. The other columns are
    those of Owner.
    """

    texts: tuple[str, ...]
    kinds: Int64s
    areas: Int64s
    first_inodes: Int64s
    last_inodes: Int64s
    begins: Int64s
    details: Int64s

    def __post_init__(self) -> None:
        """Raise ValueError for columns that aren't as the class says."""
        if (
            len({len(column) for column in self.columns()}) > 1
            or not _are_places(self.kinds, len(KINDS))
            or not _are_places(self.details, len(self.texts))
        ):
            raise ValueError("the columns of owners contradict each other")

    def columns(self) -> tuple[Int64s, ...]:
        """Return the columns of numbers, in the order of the class."""
        return (
            self.kinds,
            self.areas,
            self.first_inodes,
            self.last_inodes,
            self.begins,
            self.details,
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def __iter__(self) -> Iterator[Owner]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Owner:
        return Owner(
            kind=KINDS[self.kinds[number]],
            area=int(self.areas[number]),
            first_inode=int(self.first_inodes[number]),
            last_inode=int(self.last_inodes[number]),
            begin=int(self.begins[number]),
            detail=self.texts[self.details[number]],
        )

    def has_kind(self, kinds: frozenset[OwnerKind]) -> npt.NDArray[np.bool_]:
        """Return, by owner, whether its kind is one of these."""
        return np.isin(self.kinds, [KINDS.index(kind) for kind in kinds])

    def with_owner(self, owner: Owner) -> OwnerTable:
        """Return the table with one more owner, the last."""
        builder = OwnerTableBuilder([owner])
        last = builder.result()
        columns = [
            np.concatenate(pair) for pair in zip(self.columns(), last.columns(), strict=True)
        ]
        columns[-1][-1] = len(self.texts)
        return OwnerTable((*self.texts, *last.texts), *columns)


def _are_places(column: Int64s, count: int) -> bool:
    return not len(column) or (int(column.min()) >= 0 and int(column.max()) < count)


@dataclass
class OwnerTableBuilder:
    """Collects owners for an OwnerTable."""

    owners: list[Owner] = field(default_factory=list)

    def add(self, owner: Owner) -> int:
        """Add an owner, and return its number."""
        self.owners.append(owner)
        return len(self.owners) - 1

    def result(self) -> OwnerTable:
        """Return the table of all owners added."""
        texts: dict[str, int] = {}
        kind_places = {kind: place for place, kind in enumerate(KINDS)}
        rows = [
            (
                kind_places[owner.kind],
                owner.area,
                owner.first_inode,
                owner.last_inode,
                owner.begin,
                texts.setdefault(owner.detail, len(texts)),
            )
            for owner in self.owners
        ]
        columns = np.array(rows, np.int64).reshape(-1, 6)
        return OwnerTable(tuple(texts), *(columns[:, place].copy() for place in range(6)))
