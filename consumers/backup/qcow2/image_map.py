"""Reads the map of an image: which runs of the volume are data, and where in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.backup.qcow2.format import (
    COMPRESSED,
    HEADER_PAGE_BYTES,
    MAX_L1_BYTES,
    OFFSET_MASK,
    UNIT_BYTES,
    ZERO_FLAG,
    ImageHeader,
    ImageLayout,
)
from mirrorlog.consumers.backup.qcow2.mapped_runs import MappedRuns, RunKind, concatenate
from mirrorlog.consumers.backup.qcow2.unit_runs import Numbers, mask_runs
from mirrorlog.errors import StateDamaged

_TABLES_AT_ONCE_BYTES: Final = 1 << 20
_ALL: Final = np.uint64(0xFFFFFFFF)

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ImageMap:
    """What an image says of its volume.

    runs: of the bytes of the volume; their layer is 0. l2_offsets: where the tables of level 2 lie
    in the file, by their number, 0 for one that isn't there. file_bytes: the length of the file.
    """

    header: ImageHeader
    runs: MappedRuns
    l2_offsets: Numbers
    file_bytes: int


def open_map(path: Path) -> ImageMap:
    """Read the map of the image at `path`.

    Raise StateDamaged if it isn't an image in one of the two layouts, or if an entry points outside
    the file. DeviceFailed, BadUse as FileDevice.
    """
    with FileDevice(path, writable=False) as device:
        return read_map(device)


def open_header(path: Path) -> ImageHeader:
    """Read the header of the image at `path`. Raise as open_map()."""
    with FileDevice(path, writable=False) as device:
        return _read_header(device)


def read_map(device: FileDevice, *, left_out: Sequence[range] = ()) -> ImageMap:
    """Read the map of the image that is open here, as open_map().

    left_out: tables of level 2 that begin at one of these offsets in the file aren't read, as if
    they mapped nothing.
    """
    header = _read_header(device)
    reader = _MapReading(device, header)
    l2_offsets = reader.l2_offsets()
    is_read = l2_offsets > 0
    for offsets in left_out:
        is_read &= (l2_offsets < offsets.start) | (l2_offsets >= offsets.stop)
    tables = np.flatnonzero(is_read)
    at_once = max(1, _TABLES_AT_ONCE_BYTES // header.layout.cluster_bytes)
    pieces = [
        reader.runs(tables[first : first + at_once], l2_offsets)
        for first in range(0, len(tables), at_once)
    ]
    runs = concatenate(pieces).clipped(0, header.size_bytes)
    return ImageMap(header, runs, l2_offsets, device.size_bytes)


def _read_header(device: FileDevice) -> ImageHeader:
    page = device.pread(offset=0, length=min(HEADER_PAGE_BYTES, device.size_bytes))
    return ImageHeader.unpack(page, device.address)


class _MapReading:
    """The tables of one image, and what is wrong with them."""

    def __init__(self, device: FileDevice, header: ImageHeader) -> None:
        self._device: Final = device
        self._header: Final = header
        self._layout: Final = header.layout

    def l2_offsets(self) -> Numbers:
        """Return where the tables of level 2 lie, as ImageMap says."""
        header, layout = self._header, self._layout
        mapped = header.l1_entries * layout.table_entries * layout.cluster_bytes
        if header.l1_entries * 8 > MAX_L1_BYTES or mapped < header.size_bytes:
            raise self._damaged("the table of level 1 doesn't map the volume", header.l1_offset)
        words = self._words(np.array([header.l1_offset]), header.l1_entries)
        offsets = (words & np.uint64(OFFSET_MASK)).astype(np.int64)
        self._check(offsets, layout.cluster_bytes, "a table of level 2")
        return offsets

    def runs(self, tables: Numbers, l2_offsets: Numbers) -> MappedRuns:
        """Return the runs that some tables of level 2 name."""
        layout = self._layout
        words = self._words(l2_offsets[tables], layout.table_entries * layout.entry_words)
        entries = words.reshape(-1, layout.entry_words)
        firsts = tables[:, None] * layout.table_entries
        clusters = (firsts + np.arange(layout.table_entries)).ravel()
        used = entries.any(axis=1)
        if layout is ImageLayout.SUBCLUSTERS:
            return self._of_subclusters(entries[used], clusters[used])
        return self._of_clusters(entries[used, 0], clusters[used])

    def _of_clusters(self, entries: Words, clusters: Numbers) -> MappedRuns:
        starts = clusters * UNIT_BYTES
        is_compressed = (entries & np.uint64(COMPRESSED)) != 0
        is_zeros = ~is_compressed & ((entries & np.uint64(ZERO_FLAG)) != 0)
        is_data = ~is_compressed & ~is_zeros
        places = (entries & np.uint64(OFFSET_MASK)).astype(np.int64)
        self._check(places[is_data], UNIT_BYTES, "a cluster")
        descriptors = (entries & np.uint64(COMPRESSED - 1)).astype(np.int64)
        kinds = np.select(
            [is_compressed, is_zeros], [RunKind.COMPRESSED, RunKind.ZEROS], RunKind.DATA
        ).astype(np.uint8)
        places = np.select([is_compressed, is_zeros], [descriptors, 0], places)
        return MappedRuns(
            starts, starts + UNIT_BYTES, kinds, places, np.zeros(len(starts), np.int64)
        ).joined()

    def _of_subclusters(self, entries: Words, clusters: Numbers) -> MappedRuns:
        size = self._layout.cluster_bytes
        offsets = (entries[:, 0] & np.uint64(OFFSET_MASK)).astype(np.int64)
        data, zeros = entries[:, 1] & _ALL, entries[:, 1] >> np.uint64(32)
        if (data & zeros).any() or (entries[:, 0] & np.uint64(COMPRESSED)).any():
            raise self._damaged("an entry of level 2 contradicts itself", 0)
        self._check(offsets[data != 0], size, "a cluster")
        whole, whole_zeros = data == _ALL, zeros == _ALL
        starts = clusters * size
        pieces = [
            MappedRuns.of(starts[whole], starts[whole] + size, RunKind.DATA, offsets[whole]),
            MappedRuns.of(
                starts[whole_zeros],
                starts[whole_zeros] + size,
                RunKind.ZEROS,
                np.zeros(int(whole_zeros.sum()), np.int64),
            ),
        ]
        part = ~whole & ~whole_zeros
        for kind, masks in ((RunKind.DATA, data[part]), (RunKind.ZEROS, zeros[part])):
            rows, firsts, ends = mask_runs(masks.astype(np.uint32))
            base = starts[part][rows]
            places = offsets[part][rows] + firsts * UNIT_BYTES
            pieces.append(
                MappedRuns.of(
                    base + firsts * UNIT_BYTES,
                    base + ends * UNIT_BYTES,
                    kind,
                    places if kind is RunKind.DATA else np.zeros(len(rows), np.int64),
                )
            )
        return concatenate(pieces)

    def _words(self, offsets: Numbers, count: int) -> Words:
        """Return `count` words from each of the offsets on, one after the other."""
        self._check(offsets, count * 8, "a table")
        parts = [self._device.pread(offset=at, length=count * 8) for at in offsets.tolist()]
        return np.frombuffer(b"".join(parts), ">u8").astype(np.uint64)

    def _check(self, offsets: Numbers, length: int, what: str) -> None:
        """Raise StateDamaged unless [offset, offset + length) is in the file; 0 is nothing."""
        is_wrong = (offsets % UNIT_BYTES != 0) | (offsets + length > self._device.size_bytes)
        if what != "a table of level 2":
            is_wrong |= offsets == 0
        if is_wrong.any():
            raise self._damaged(f"{what} isn't in the file", int(offsets[is_wrong][0]))

    def _damaged(self, what: str, offset: int) -> StateDamaged:
        return StateDamaged(
            f"the image can't be read: {what}",
            where=f"{self._device.address}, offset {offset}",
            next="Run `mirrorlog backup check` to see which points are affected.",
        )
