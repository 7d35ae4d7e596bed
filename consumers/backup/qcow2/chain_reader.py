"""A chain of images as a device that is read: the volume as of the newest image's point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn
from uuid import UUID

import numpy as np

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.backup.qcow2.checked_file import CheckedFile
from mirrorlog.consumers.backup.qcow2.format import UNIT_BYTES
from mirrorlog.consumers.backup.qcow2.image_digests import ImageDigests
from mirrorlog.consumers.backup.qcow2.image_map import ImageMap, read_map
from mirrorlog.consumers.backup.qcow2.mapped_runs import MappedRuns, RunKind, chain_runs
from mirrorlog.consumers.backup.qcow2.unit_runs import Numbers
from mirrorlog.consumers.backup.qcow2.zstd_clusters import frame_place, unpack_cluster
from mirrorlog.consumers.range_reads import DeviceReader, PageMemory
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.closing import ClosesOnExit
from mirrorlog.ports.devices import BlockDevice, Data, DeviceIdentity, check_range


class ChainReader(ClosesOnExit):
    """BlockDevice of the images of a chain, opened for reading.

    The map of the whole chain is made once: a read costs the same at every depth. Methods without
    a docstring follow BlockDevice. runs: what is seen through the chain. maps: of each image.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        image_ids: Sequence[UUID] | None = None,
        size_bytes: int | None = None,
        below: BlockDevice | None = None,
        is_whole: bool = True,
        digests: Sequence[ImageDigests | None] | None = None,
    ) -> None:
        """Open the images at `paths`, the newest first.

        image_ids: those that the manifests name; None if they aren't known. size_bytes: the
        volume's true size; None for the size of the newest image, which is a multiple of 512.
        is_whole: the last image stands alone. Otherwise `below` reads what no image has; without
        it, that is zeros. digests: of each image; what is read is held against them, and reading
        raises DamagedPiece. None: of an image of which they aren't known.

        Raise StateDamaged if the images aren't a chain in this order, or if one can't be read.
        """
        self.address: Final = str(paths[0])
        self._below: Final = below
        self._memories: Final = PageMemory()
        with ExitStack() as stack:
            self._devices: Final = [
                stack.enter_context(_opened(path, its))
                for path, its in zip(paths, digests or [None] * len(paths), strict=True)
            ]
            self.maps: Final = [read_map(device) for device in self._devices]
            _check_chain(paths, self.maps, image_ids, is_whole=is_whole)
            self._size_bytes: Final = size_bytes or self.maps[0].header.size_bytes
            self.runs: Final[MappedRuns] = chain_runs(
                [image.runs for image in self.maps],
                [image.header.size_bytes for image in self.maps],
            ).clipped(0, self._size_bytes)
            self._stack: Final = stack.pop_all()

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def identity(self) -> DeviceIdentity:
        return self._devices[0].identity

    def pread(self, *, offset: int, length: int) -> bytes:
        check_range(self.address, size_bytes=self.size_bytes, offset=offset, length=length)
        if not length:
            return b""
        with self._memories.lent(length) as memory:
            self.pread_ranges(RangeColumns.of([(offset, length)]), memory)
            return bytes(memory[:length])

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as ReadsRanges says."""
        if not ranges.are_inside(self.size_bytes):
            for offset, length, _ in ranges:
                check_range(self.address, size_bytes=self.size_bytes, offset=offset, length=length)
        requests, indexes = self._meetings(ranges)
        runs = self.runs
        starts = np.maximum(ranges.offsets[requests], runs.starts[indexes])
        lengths = (
            np.minimum((ranges.offsets + ranges.lengths)[requests], runs.ends[indexes]) - starts
        )
        places = ranges.places[requests] + starts - ranges.offsets[requests]
        hosts = runs.places[indexes] + starts - runs.starts[indexes]
        kinds = runs.kinds[indexes]
        self._fill_rest(ranges, requests, np.where(kinds == RunKind.ZEROS, 0, lengths), memory)
        self._fill_zeros(places[kinds == RunKind.ZEROS], lengths[kinds == RunKind.ZEROS], memory)
        layers = runs.layers[indexes]
        for layer in np.unique(layers[kinds == RunKind.DATA]).tolist():
            chosen = (kinds == RunKind.DATA) & (layers == layer)
            columns = RangeColumns(hosts[chosen], lengths[chosen], places[chosen])
            self._devices[layer].pread_ranges(columns, memory)

        compressed = kinds == RunKind.COMPRESSED
        skipped = (starts - runs.starts[indexes] + runs.starts[indexes] % UNIT_BYTES)[compressed]
        self._read_compressed(
            runs.where(indexes[compressed]),
            skipped,
            lengths[compressed],
            places[compressed],
            memory,
        )

    def _read_compressed(
        self,
        runs: MappedRuns,
        skipped: Numbers,
        lengths: Numbers,
        places: Numbers,
        memory: memoryview,
    ) -> None:
        """Read parts of compressed clusters: `lengths` bytes from byte `skipped` of each."""
        offsets, sizes = frame_place(runs.places)
        columns = (runs.layers, offsets, sizes, skipped, lengths, places)
        for layer, offset, size, first, length, place in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            device = self._devices[layer]
            where = f"{device.address}, offset {offset}"
            cluster = unpack_cluster(device.pread(offset=offset, length=size), where)
            memory[place : place + length] = cluster[first : first + length]

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        held = self.runs.of_kind(RunKind.DATA, RunKind.COMPRESSED).between(start, self.size_bytes)
        for first, end in zip(held.firsts.tolist(), held.ends.tolist(), strict=True):
            yield first, end - first

    def pwrite(self, offset: int, data: Data) -> None:
        self._refuse(f"{len(data)} bytes can't be written", offset)

    def zero(self, *, offset: int, length: int) -> None:
        self._refuse(f"{length} bytes can't be made zeros", offset)

    def resize(self, size_bytes: int) -> None:
        self._refuse("the size can't be changed", size_bytes)

    def flush(self) -> None:
        """Do nothing: nothing was written."""

    def close(self) -> None:
        self._stack.close()

    def _meetings(self, ranges: RangeColumns) -> tuple[Numbers, Numbers]:
        """Return the indexes of each range and each run that have bytes in common."""
        firsts = np.searchsorted(self.runs.ends, ranges.offsets, "right")
        lasts = np.searchsorted(self.runs.starts, ranges.offsets + ranges.lengths, "left")
        counts = np.maximum(lasts - firsts, 0)
        requests = np.repeat(np.arange(len(ranges)), counts)
        starts = np.cumsum(counts) - counts
        return requests, np.arange(int(counts.sum())) + np.repeat(firsts - starts, counts)

    def _fill_rest(
        self, ranges: RangeColumns, requests: Numbers, lengths: Numbers, memory: memoryview
    ) -> None:
        """Fill the ranges that no run covers as a whole, before the runs are read over them."""
        covered = np.bincount(requests, weights=lengths, minlength=len(ranges))
        rest = ranges.where(covered < ranges.lengths)
        self._fill_zeros(rest.places, rest.lengths, memory)
        if self._below is None:
            return
        lengths = np.minimum(rest.lengths, self._below.size_bytes - rest.offsets)
        is_below = lengths > 0  # behind its end are zeros
        columns = RangeColumns(rest.offsets, lengths, rest.places).where(is_below)
        DeviceReader(self._below).pread_ranges(columns, memory)

    def _fill_zeros(self, places: Numbers, lengths: Numbers, memory: memoryview) -> None:
        octets = np.frombuffer(memory, np.uint8)
        for place, length in zip(places.tolist(), lengths.tolist(), strict=True):
            octets[place : place + length] = 0

    def _refuse(self, what: str, offset: int) -> NoReturn:
        raise DeviceFailed(
            f"{what}: a point of a backup is read only",
            where=f"{self.address}, offset {offset}",
            next="Restore it to another volume, and write there.",
        )


def _opened(path: Path, digests: ImageDigests | None) -> FileDevice:
    return FileDevice(path, writable=False) if digests is None else CheckedFile(path, digests)


def _check_chain(
    paths: Sequence[Path],
    maps: Sequence[ImageMap],
    image_ids: Sequence[UUID] | None,
    *,
    is_whole: bool,
) -> None:
    """Raise StateDamaged unless each image names the next as the one below it."""
    names = [path.name for path in paths[1:]]
    lowest = maps[-1].header.backing
    backings = [*names, None if is_whole else lowest]
    for path, image, backing in zip(paths, maps, backings, strict=True):
        if image.header.backing != backing:
            raise _broken(f"the image stands on {image.header.backing}, not on {backing}", path)
    actual = [image.header.image_id for image in maps]
    if image_ids is not None and actual != list(image_ids):
        for path, image_id, wanted in zip(paths, actual, image_ids, strict=True):
            if image_id != wanted:
                raise _broken(f"the image has the id {image_id}, not {wanted}", path)
    twice = [image_id for image_id, count in Counter(actual).items() if image_id and count > 1]
    if twice:
        raise _broken(f"two images of the chain have the id {twice[0]}", paths[0])


def _broken(what: str, path: Path) -> StateDamaged:
    return StateDamaged(
        what, where=str(path), next="Run `mirrorlog backup check`; never rename images."
    )
