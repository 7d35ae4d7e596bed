"""Collects what the readers of file systems find, and makes the index of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.file_names.claims import Claims, OwnerGroups, disjoint, fill
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.name_table import NameTableBuilder
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind, OwnerTableBuilder

Int64s = npt.NDArray[np.int64]


class Tier(IntEnum):
    """Who gets a range that several claim: the first tier first."""

    USED = 0
    FREE = 1
    REST = 2  # of a file system: neither free nor in a file
    AREA = 3  # a partition: what its file system doesn't cover
    TABLE = 4
    DEVICE = 5


@dataclass
class MapBuilder:
    """Collects owners, names and claims of all file systems of one device.

    size_bytes: of the device. All claims end there.
    """

    size_bytes: int
    owners: OwnerTableBuilder = field(default_factory=OwnerTableBuilder)
    names: NameTableBuilder = field(default_factory=NameTableBuilder)
    areas: list[Area] = field(default_factory=list)
    tiers: dict[Tier, Claims] = field(default_factory=lambda: {tier: Claims() for tier in Tier})

    def add_area(self, area: Area) -> int:
        """Add an area, and return its place."""
        self.areas.append(area)
        return len(self.areas) - 1

    def claim(self, tier: Tier, start: int, length: int, owner: Owner) -> None:
        """Claim a range of the device for an owner. What lies outside the device is cut off."""
        start, end = max(start, 0), min(start + length, self.size_bytes)
        self.tiers[tier].add(start, end - start, self.owners.add(owner))

    def result(self, *, began_at_us: int, read_at_us: int) -> FileIndex:
        """Return the index of everything collected. The times are those of FileIndex."""
        self.claim(Tier.DEVICE, 0, self.size_bytes, Owner(kind=OwnerKind.NO_PARTITION))
        crowd = self.owners.add(Owner(kind=OwnerKind.SHARED))
        groups = OwnerGroups(len(self.owners.owners), crowd)
        split = [disjoint(self.tiers[tier], groups) for tier in Tier]
        whole = np.array([0], np.int64), np.array([self.size_bytes], np.int64)
        starts, _, numbers = fill(whole, split)
        is_first = np.concatenate(([True], numbers[1:] != numbers[:-1]))
        return FileIndex(
            edges=np.append(starts[is_first], self.size_bytes),
            owner_numbers=numbers[is_first],
            all_owners=self.owners.result(),
            groups=tuple(groups.numbers),
            areas=tuple(self.areas),
            names=self.names.result(),
            began_at_us=began_at_us,
            read_at_us=read_at_us,
        )


@dataclass
class AreaMap:
    """The part of a MapBuilder that one file system fills. All ranges begin at its start.

    place: of its Area in the builder. length: no claim goes past it.
    """

    builder: MapBuilder
    place: int
    start: int
    length: int

    def owner(self, owner: Owner) -> int:
        """Add an owner of this area, and return its number."""
        return self.builder.owners.add(replace(owner, area=self.place))

    def claim(self, tier: Tier, start: int, length: int, owner: int) -> None:
        """Claim a range for an owner of this area."""
        first, end = max(start, 0), min(start + length, self.length)
        self.builder.tiers[tier].add(self.start + first, end - first, owner)

    def claim_all(self, tier: Tier, starts: Int64s, lengths: Int64s, owner: int) -> None:
        """Claim many ranges for one owner of this area."""
        firsts, ends = np.maximum(starts, 0), np.minimum(starts + lengths, self.length)
        is_there = ends > firsts
        self.builder.tiers[tier].add_all(
            self.start + firsts[is_there], (ends - firsts)[is_there], owner
        )

    def end(self, area: Area, fs_bytes: int) -> None:
        """Note what is known of the area, and how many bytes its file system covers."""
        self.builder.areas[self.place] = area
        used = min(fs_bytes, self.length)
        self.claim(Tier.REST, 0, used, self.owner(Owner(kind=OwnerKind.UNKNOWN)))
        self.claim(Tier.AREA, used, self.length - used, self.owner(Owner(kind=OwnerKind.AFTER_END)))
