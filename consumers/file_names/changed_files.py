"""The files in which blocks changed, with the bytes of each. Pure.

Every changed byte is counted once: under a file, under the files that share it, or under what it
belongs to when it is in no file. So the bytes of all rows add up to the bytes that changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.name_table import sorted_paths
from mirrorlog.consumers.file_names.owners import NAMED, Owner, OwnerKind
from mirrorlog.domain.bitmaps import BlockSet, runs
from mirrorlog.domain.volumes import Volume

Int64s = npt.NDArray[np.int64]


class NamedOwners(NamedTuple):
    """What is said of the owners of a range, alike in every answer.

    label: what it is (OwnerKind); of what several files share, the kinds of all.
    names: the paths of the file; of all files, if several share the blocks. Empty if none is known.
    partition: the number of the partition; 0 for a file system that begins with the volume; None
        outside of all.
    inode: of the file; None if it isn't one file.
    """

    label: str
    names: tuple[bytes, ...]
    partition: int | None
    inode: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """What changed of one file, or of one kind of what is in no file.

    label, names, partition, inode, detail: as in NamedOwners.
    bytes_changed: of the volume's blocks that changed. bytes_zeroed: the part of them that is known
        to be zeroed or discarded.
    """

    label: str
    names: tuple[bytes, ...]
    partition: int | None
    inode: int | None
    detail: str
    bytes_changed: int
    bytes_zeroed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesAnswer:
    """Which files changed: the most bytes first. mapping.py says how far that can be trusted."""

    blocks: ChangedBlocks
    files: tuple[ChangedFile, ...]


@dataclass(slots=True)
class _Sum:
    """The bytes of one row, and the owners of its blocks."""

    owners: tuple[Owner, ...]
    bytes_changed: int = 0
    bytes_zeroed: int = 0


def changed_files(blocks: ChangedBlocks, index: FileIndex) -> FilesAnswer:
    """Return the files that the changed blocks belong to."""
    volume = blocks.volume
    whole = index.covering(volume.size_bytes)
    sums: dict[object, _Sum] = {}
    for numbers, amounts, is_zero in (
        (*_amounts(blocks.changed - blocks.zeroed, volume, whole), False),
        (*_amounts(blocks.zeroed, volume, whole), True),
    ):
        for number, amount in zip(numbers, amounts, strict=True):
            owners = whole.owners(number)
            row = sums.setdefault(_key(owners), _Sum(owners))
            row.bytes_changed += amount
            row.bytes_zeroed += amount if is_zero else 0
    rows = [_changed_file(whole, row) for row in sums.values()]
    rows.sort(key=lambda row: (-row.bytes_changed, row.names, row.label, row.detail))
    return FilesAnswer(blocks=blocks, files=tuple(rows))


def _amounts(blocks: BlockSet, volume: Volume, index: FileIndex) -> tuple[list[int], list[int]]:
    """Return numbers of owners, and how many bytes of the blocks each has."""
    ranges = [volume.byte_range(first=first, count=count) for first, count in runs(blocks)]
    columns = np.array(ranges, np.int64).reshape(-1, 2)
    pieces = index.pieces(columns[:, 0], columns[:, 1])
    numbers, places = np.unique(pieces.owners, return_inverse=True)
    amounts = np.zeros(len(numbers), np.int64)
    np.add.at(amounts, places, pieces.lengths)
    return numbers.tolist(), amounts.tolist()


def _key(owners: tuple[Owner, ...]) -> object:
    """Return what rows are told apart by: the file, or what it is that no file has."""
    return tuple(
        (owner.kind, owner.area, owner.detail, owner.first_inode if _is_file(owner) else -1)
        for owner in owners
    )


def _is_file(owner: Owner) -> bool:
    return owner.kind in NAMED or owner.kind is OwnerKind.UNNAMED


def _changed_file(index: FileIndex, row: _Sum) -> ChangedFile:
    named = named_owners(index, row.owners)
    return ChangedFile(
        label=named.label,
        names=named.names,
        partition=named.partition,
        inode=named.inode,
        detail=named.detail,
        bytes_changed=row.bytes_changed,
        bytes_zeroed=row.bytes_zeroed,
    )


def named_owners(index: FileIndex, owners: tuple[Owner, ...]) -> NamedOwners:
    """Return what is said of the owners of a range. index: theirs, of any size that it covers."""
    first = owners[0]
    is_one_file = len({owner.first_inode for owner in owners}) == 1 and _is_file(first)
    return NamedOwners(
        label=" and ".join(sorted({str(owner.kind) for owner in owners})),
        names=tuple(sorted_paths(path for owner in owners for path in index.paths(owner))),
        partition=index.areas[first.area].number if first.area >= 0 else None,
        inode=first.first_inode if is_one_file and first.first_inode >= 0 else None,
        detail=", ".join(sorted({owner.detail for owner in owners if owner.detail})),
    )
