"""The tables of an image, made from where everything lies. Pure.

Source: the specification, "Host cluster management", "Cluster mapping", "Extended L2 Entries".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.backup.qcow2.format import COPIED, ZERO_FLAG, ImageLayout
from mirrorlog.consumers.backup.qcow2.image_plan import LaidOutImage
from mirrorlog.consumers.backup.qcow2.unit_runs import Numbers

_TABLES_BYTES: Final = 1 << 20
"""So much of the tables is made at a time."""
_ALL_DATA: Final = 0x00000000FFFFFFFF
_ALL_ZEROS: Final = 0xFFFFFFFF00000000

Words = npt.NDArray[np.uint64]
TablePiece = tuple[int, npt.NDArray[np.uint8]]
"""An offset in the file, and the bytes from there on."""


def table_pieces(image: LaidOutImage, packed: Words | None = None) -> Iterator[TablePiece]:
    """Yield everything of the file that is neither header nor data, in pieces of whole clusters.

    packed: the entries of the clusters of `whole`, in their order, if they are compressed.
    """
    layout = image.header.layout
    hosts = image.table_start + np.arange(len(image.tables))
    l1 = np.zeros(image.header.l1_entries, np.uint64)
    l1[image.tables] = _offsets(hosts, layout) | np.uint64(COPIED)
    yield image.header.l1_offset, _octets(l1)
    blocks = image.refcount_block_start + np.arange(image.refcount_blocks)
    yield image.header.refcount_table_offset, _octets(_offsets(blocks, layout))
    yield from _refcount_pieces(image)
    at_once = max(1, _TABLES_BYTES // layout.cluster_bytes)
    for first in range(0, len(image.tables), at_once):
        entries = _entries(image, image.tables[first : first + at_once], packed)
        yield (image.table_start + first) * layout.cluster_bytes, _octets(entries)


def _refcount_pieces(image: LaidOutImage) -> Iterator[TablePiece]:
    """Yield the refcount blocks. Every host cluster before the shared ones has one user."""
    layout = image.header.layout
    shared_start = image.host_clusters - len(image.shared_users)
    at_once = layout.refcount_block_entries * max(1, _TABLES_BYTES // layout.cluster_bytes)
    for first in range(0, image.host_clusters, at_once):
        end = min(first + at_once, image.host_clusters)
        counts = np.ones(end - first, ">u2")
        shared_from = max(first, shared_start)
        if shared_from < end:
            counts[shared_from - first :] = image.shared_users[
                shared_from - shared_start : end - shared_start
            ]
        block = image.refcount_block_start + first // layout.refcount_block_entries
        yield block * layout.cluster_bytes, counts.view(np.uint8)


def _entries(image: LaidOutImage, tables: Numbers, packed: Words | None) -> npt.NDArray[np.uint64]:
    """Return the words of some tables of level 2, one after the other."""
    layout = image.header.layout
    entries = np.zeros((len(tables) * layout.table_entries, layout.entry_words), np.uint64)
    has_subclusters = layout is ImageLayout.SUBCLUSTERS
    first, end = int(tables[0]), int(tables[-1]) + 1
    first, end = first * layout.table_entries, end * layout.table_entries

    def rows(clusters: Numbers) -> Numbers:
        table = np.searchsorted(tables, clusters // layout.table_entries)
        return table * layout.table_entries + clusters % layout.table_entries

    whole = rows(image.whole.between(first, end).numbers())
    below = _count_below(image, first)
    if packed is not None:
        entries[whole, 0] = packed[below : below + len(whole)]
    else:
        hosts = image.data_start + below + np.arange(len(whole))
        entries[whole, 0] = _offsets(hosts, layout) | np.uint64(COPIED)
    zeros = rows(image.whole_zeros.between(first, end).numbers())
    if not has_subclusters:
        entries[zeros, 0] = ZERO_FLAG
        return entries
    entries[whole, 1] = _ALL_DATA
    entries[zeros, 1] = _ALL_ZEROS
    part = slice(*np.searchsorted(image.parts, (first, end)).tolist())
    parts, hosts = rows(image.parts[part]), image.part_hosts[part]
    shared_start = image.host_clusters - len(image.shared_users)
    is_alone = np.zeros(len(parts), np.bool_)
    has_host = hosts > 0
    is_alone[has_host] = image.shared_users[hosts[has_host] - shared_start] == 1
    entries[parts, 0] = _offsets(hosts, layout)
    entries[parts[is_alone], 0] |= np.uint64(COPIED)
    zero_bits = image.part_zeros[part].astype(np.uint64) << np.uint64(32)
    entries[parts, 1] = image.part_data[part].astype(np.uint64) | zero_bits
    return entries


def _count_below(image: LaidOutImage, cluster: int) -> int:
    """Return how many whole clusters of data lie below a cluster."""
    return image.whole.between(0, cluster).total


def _offsets(host_clusters: Numbers, layout: ImageLayout) -> npt.NDArray[np.uint64]:
    return host_clusters.astype(np.uint64) << np.uint64(layout.cluster_bits)


def _octets(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return the bytes of words, big-endian."""
    return np.ascontiguousarray(words.astype(">u8")).reshape(-1).view(np.uint8)
