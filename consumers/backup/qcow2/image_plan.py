"""What an image holds, and where in its file: laid out before anything is written. Pure.

The file in clusters: the header, the table of level 1, the refcount table, the refcount blocks, the
tables of level 2, the data of whole clusters, the data of shared clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np

from mirrorlog.consumers.backup.qcow2.format import (
    UNIT_BYTES,
    ImageHeader,
    ImageLayout,
    disk_bytes,
    l1_entries,
)
from mirrorlog.consumers.backup.qcow2.packing import pack_masks
from mirrorlog.consumers.backup.qcow2.unit_runs import (
    Masks,
    Numbers,
    Runs,
    clusters_of,
    mask_runs,
    merged,
    units_of,
)
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import BadUse

PACKED_CLUSTERS: Final = 1024
"""So many clusters are compressed at a time. Together they never get longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """What an image is to hold.

    size_bytes, block_size: of the volume. data: the blocks whose bytes it holds. zeros: the blocks
    that it says are zeros; a block in both sets is data. backing: the name of the image below, in
    the same folder; None if every other block is zeros. is_compressed: with zstd, in the layout
    CLUSTERS only: subclusters of a compressed cluster can't be told apart.
    """

    size_bytes: int
    block_size: int
    data: BlockSet
    zeros: BlockSet
    backing: str | None
    layout: ImageLayout
    image_id: UUID
    is_compressed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOutImage:
    """Where everything lies in the file of an image.

    Numbers of clusters are those of the guest unless they are called host clusters, which count
    from the beginning of the file.

    whole: runs of clusters that are data as a whole; they lie one after the other from host cluster
    `data_start` on. whole_zeros: runs of clusters that are zeros as a whole. parts: the other
    clusters, ascending, with the units that are data and zeros; part_hosts: their host clusters, 0
    where no unit is data. shared_users: how many parts use each host cluster behind the whole ones.
    tables: which tables of level 2 there are, ascending.
    """

    header: ImageHeader
    volume_bytes: int
    whole: Runs
    whole_zeros: Runs
    parts: Numbers
    part_data: Masks
    part_zeros: Masks
    part_hosts: Numbers
    shared_users: Numbers
    tables: Numbers
    refcount_block_start: int
    refcount_blocks: int
    table_start: int
    data_start: int
    host_clusters: int

    @property
    def file_bytes(self) -> int:
        """The length of the file."""
        return self.host_clusters * self.header.layout.cluster_bytes

    @property
    def data_offset(self) -> int:
        """Where the data begins in the file."""
        return self.data_start * self.header.layout.cluster_bytes

    def copies(self) -> RangeColumns:
        """Return what is to be copied: offsets in the volume, and places in the file, ascending.

        The last range may end behind the volume, at the end of a unit.
        """
        cluster_bytes = self.header.layout.cluster_bytes
        lengths = (self.whole.ends - self.whole.firsts) * cluster_bytes
        places = self.data_offset + np.cumsum(lengths) - lengths
        part_offsets, part_lengths, part_places = self._part_copies()
        return RangeColumns(
            np.concatenate((self.whole.firsts * cluster_bytes, part_offsets)),
            np.concatenate((lengths, part_lengths)),
            np.concatenate((places, part_places)),
        )

    def _part_copies(self) -> tuple[Numbers, Numbers, Numbers]:
        """Return offset, length and place of the runs of units in shared clusters, by place."""
        rows, firsts, ends = mask_runs(self.part_data)
        cluster_bytes = self.header.layout.cluster_bytes
        places = self.part_hosts[rows] * cluster_bytes + firsts * UNIT_BYTES
        offsets = self.parts[rows] * cluster_bytes + firsts * UNIT_BYTES
        lengths = (ends - firsts) * UNIT_BYTES
        order = np.argsort(places, kind="stable")
        return offsets[order], lengths[order], places[order]


def lay_out(plan: ImagePlan) -> LaidOutImage:
    """Return where everything of an image lies. Raise BadUse for a volume too large for it."""
    if plan.is_compressed and plan.layout is not ImageLayout.CLUSTERS:
        raise BadUse(
            f"an image of layout '{plan.layout}' can't be compressed",
            next=f"Choose the layout '{ImageLayout.CLUSTERS}'.",
        )
    data, zeros = units_of(
        plan.data, plan.zeros, block_size=plan.block_size, size_bytes=plan.size_bytes
    )
    if plan.backing is None:  # what isn't allocated reads as zeros
        zeros = Runs(zeros.firsts[:0], zeros.ends[:0])
    parts, part_data, part_zeros = _no_parts()
    whole, whole_zeros = data, zeros
    if plan.layout is ImageLayout.SUBCLUSTERS:
        data_clusters, zero_clusters = clusters_of(data), clusters_of(zeros)
        whole, whole_zeros = data_clusters.whole, zero_clusters.whole
        parts = np.union1d(data_clusters.parts, zero_clusters.parts)
        part_data, part_zeros = np.zeros((2, len(parts)), np.uint32)
        part_data[np.searchsorted(parts, data_clusters.parts)] = data_clusters.masks
        part_zeros[np.searchsorted(parts, zero_clusters.parts)] = zero_clusters.masks
    has_data = part_data != 0
    part_hosts = np.zeros(len(parts), np.int64)
    shared_hosts, shared_count = pack_masks(part_data[has_data])
    size_bytes = disk_bytes(plan.size_bytes)
    l1_size = l1_entries(size_bytes, plan.layout)
    tables = _tables(whole, whole_zeros, parts, plan.layout)
    places = _place_tables(
        plan.layout,
        l1_size=l1_size,
        tables=len(tables),
        data_clusters=whole.total + shared_count,
    )
    part_hosts[has_data] = places.data_start + whole.total + shared_hosts
    return LaidOutImage(
        header=ImageHeader(
            layout=plan.layout,
            size_bytes=size_bytes,
            backing=plan.backing,
            image_id=plan.image_id,
            l1_entries=l1_size,
            l1_offset=plan.layout.cluster_bytes,
            refcount_table_offset=places.refcount_table_start * plan.layout.cluster_bytes,
            refcount_table_clusters=places.refcount_block_start - places.refcount_table_start,
            is_compressed=plan.is_compressed,
        ),
        volume_bytes=plan.size_bytes,
        whole=whole,
        whole_zeros=whole_zeros,
        parts=parts,
        part_data=part_data,
        part_zeros=part_zeros,
        part_hosts=part_hosts,
        shared_users=np.bincount(shared_hosts, minlength=shared_count).astype(np.int64),
        tables=tables,
        refcount_block_start=places.refcount_block_start,
        refcount_blocks=places.table_start - places.refcount_block_start,
        table_start=places.table_start,
        data_start=places.data_start,
        host_clusters=places.data_start + whole.total + shared_count,
    )


def _no_parts() -> tuple[Numbers, Masks, Masks]:
    return np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.uint32)


def _tables(whole: Runs, zeros: Runs, parts: Numbers, layout: ImageLayout) -> Numbers:
    """Return the numbers of the tables of level 2 that have an entry."""
    entries = layout.table_entries
    runs = merged(
        Runs(
            np.concatenate((whole.firsts, zeros.firsts, parts)) // entries,
            -(-np.concatenate((whole.ends, zeros.ends, parts + 1)) // entries),
        )
    )
    return runs.numbers()


@dataclass(frozen=True, slots=True)
class _TablePlaces:
    """The host clusters at which the tables and the data begin."""

    refcount_table_start: int
    refcount_block_start: int
    table_start: int
    data_start: int


def _place_tables(
    layout: ImageLayout, *, l1_size: int, tables: int, data_clusters: int
) -> _TablePlaces:
    """Return where the tables lie. Refcount blocks count themselves, so their number is sought."""
    l1_clusters = max(1, -(-l1_size * 8 // layout.cluster_bytes))
    refcount_table_start = 1 + l1_clusters
    blocks = 1
    while True:
        table_clusters = -(-blocks * 8 // layout.cluster_bytes)
        block_start = refcount_table_start + table_clusters
        table_start = block_start + blocks
        data_start = table_start + tables
        needed = -(-(data_start + data_clusters) // layout.refcount_block_entries)
        if needed <= blocks:
            return _TablePlaces(refcount_table_start, block_start, table_start, data_start)
        blocks = needed
