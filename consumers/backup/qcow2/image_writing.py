"""Writes an image in one go: tables and data, then the header, so that half an image is none.

The steps, after which a crash leaves the file as said:

1. The file is created with its final length: zeros, which no tool takes for an image.
2. Tables and data are written, many pieces at a time, and made durable: still no header.
3. The header is written and made durable: the image is whole.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import sync_folder
from mirrorlog.consumers.backup.qcow2.format import UNIT_BYTES
from mirrorlog.consumers.backup.qcow2.image_digests import (
    DATA_PIECE_BYTES,
    MAX_DATA_PIECES,
    MAX_TABLE_PIECES,
    TABLE_PIECE_BYTES,
    ImageDigests,
    digest,
    piece_bytes,
)
from mirrorlog.consumers.backup.qcow2.image_plan import (
    PACKED_CLUSTERS,
    ImagePlan,
    LaidOutImage,
    lay_out,
)
from mirrorlog.consumers.backup.qcow2.tables import table_pieces
from mirrorlog.consumers.backup.qcow2.unit_runs import Numbers
from mirrorlog.consumers.backup.qcow2.zstd_clusters import PackedClusters, pack_clusters
from mirrorlog.consumers.range_reads import CopySource, PageMemory
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import BadUse, DeviceFailed, in_words
from mirrorlog.ports.devices import BlockDevice

_PIECES_AT_ONCE: Final = 4
"""So many pieces are under way: a source far away has all their reads to answer at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenImage:
    """What was written.

    data_bytes: of the volume, rounded outwards to units. stored_bytes: what the file takes on its
    storage, as that says. file_bytes: its length.
    """

    data_bytes: int
    stored_bytes: int
    file_bytes: int
    digests: ImageDigests


def write_image(path: Path, plan: ImagePlan, source: CopySource) -> WrittenImage:
    """Write an image to a new file, and return once it is durable.

    path: a name that isn't there. The caller renames the file once it is whole. After an error the
    file is gone; after a crash it has no header. source: reads the volume as of the point.

    Raise BadUse for a path that exists or a plan that no image can hold, DeviceFailed.
    """
    image = lay_out(plan)
    _create(path, image.file_bytes)
    try:
        with FileDevice(path, writable=True) as device:
            if plan.is_compressed:
                image = _write_packed(device, image, source)
                data_digests = _read_digests(device, image)
            else:
                data_digests = _write_body(device, image, source)
            device.flush()
            device.pwrite(0, image.header.pack())
            device.flush()
            digests = _digests(device, image, data_digests)
        stored_bytes = _make_durable(path)
        return WrittenImage(
            data_bytes=int(image.copies().lengths.sum()),
            stored_bytes=stored_bytes,
            file_bytes=image.file_bytes,
            digests=digests,
        )
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _create(path: Path, file_bytes: int) -> None:
    """Create the file with its length. The flush of its data makes the length durable."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, file_bytes)
        finally:
            os.close(fd)
    except FileExistsError as error:
        raise BadUse(
            "the path of a new image exists already", where=str(path), next="Choose another."
        ) from error
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise DeviceFailed(
            f"creating an image of {file_bytes} bytes failed: {error.strerror or error}",
            where=f"{path}, offset 0",
            next="Check the folder's rights and its free space.",
        ) from error


def _make_durable(path: Path) -> int:
    """Make the name of the file durable. Return what the file takes on its storage."""
    try:
        sync_folder(path.parent)
        return path.stat().st_blocks * 512
    except OSError as error:
        raise DeviceFailed(
            f"the name of an image can't be made durable: {in_words(error)}",
            where=str(path),
            next="Check the folder's disk and its free space.",
        ) from error


def _write_body(device: FileDevice, image: LaidOutImage, source: CopySource) -> list[str]:
    """Write everything but the header. Return the digests of the pieces of data."""
    copies, memories = image.copies(), PageMemory()
    size = _data_piece_bytes(image)

    def copy(start: int) -> str:
        end = min(start + size, image.file_bytes)
        return _copy_piece(
            device, source, memories, _window(copies, start, end, image.volume_bytes), start, end
        )

    starts = range(image.data_offset, image.file_bytes, size)
    with ThreadPoolExecutor(_PIECES_AT_ONCE, "backup-image") as pool:
        digests = pool.map(copy, starts)
        try:
            _write_tables(device, image)
            return list(digests)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_packed(device: FileDevice, image: LaidOutImage, source: CopySource) -> LaidOutImage:
    """Write compressed data and the tables. Return the image with its real length.

    The file is as long as the data would be as it is, until it is known how much is needed.
    """
    copies, memories = image.copies(), PageMemory()
    size = PACKED_CLUSTERS * UNIT_BYTES

    def pack(start: int) -> PackedClusters:
        end = min(start + size, image.file_bytes)
        with memories.lent(end - start) as memory:
            _read_piece(
                source, memory, _window(copies, start, end, image.volume_bytes), end - start
            )
            return pack_clusters(memory[: end - start])

    words: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    users: list[Numbers] = [np.empty(0, np.int64)]
    offset = image.data_offset
    starts = range(image.data_offset, image.file_bytes, size)
    with ThreadPoolExecutor(_PIECES_AT_ONCE, "backup-image") as pool:
        for packed in _map_ahead(pool, pack, starts):
            device.pwrite(offset, packed.octets)
            words.append(packed.words(offset))
            users.append(packed.users())
            offset += len(packed.octets)
    os.ftruncate(device.fileno(), offset)
    real = replace(
        image,
        host_clusters=offset // image.header.layout.cluster_bytes,
        shared_users=np.concatenate(users),
    )
    _write_tables(device, real, np.concatenate(words))
    return real


def _map_ahead(
    pool: ThreadPoolExecutor, pack: Callable[[int], PackedClusters], starts: range
) -> Iterator[PackedClusters]:
    """Yield the results in order, with few of them in memory at a time."""
    waiting: deque[Future[PackedClusters]] = deque()
    for start in starts:
        waiting.append(pool.submit(pack, start))
        if len(waiting) > _PIECES_AT_ONCE:
            yield waiting.popleft().result()
    for packed in waiting:
        yield packed.result()


def _write_tables(
    device: FileDevice, image: LaidOutImage, packed: npt.NDArray[np.uint64] | None = None
) -> None:
    for offset, octets in table_pieces(image, packed):
        for start, end in _used_pages(octets):
            device.pwrite(offset + start, octets[start:end].data)


def _read_digests(device: BlockDevice, image: LaidOutImage) -> list[str]:
    """Return the digests of the pieces of data, which are read back."""
    size = _data_piece_bytes(image)
    return [
        digest(device.pread(offset=start, length=min(size, image.file_bytes - start))).hex()
        for start in range(image.data_offset, image.file_bytes, size)
    ]


def _copy_piece(
    device: FileDevice,
    source: CopySource,
    memories: PageMemory,
    ranges: RangeColumns,
    start: int,
    end: int,
) -> str:
    """Copy the ranges into the piece [start, end) of the file. Return the digest of the piece.

    What lies between the ranges isn't written: it stays a hole.
    """
    with memories.lent(end - start) as memory:
        pieces = _read_piece(source, memory, ranges, end - start)
        for first, last in pieces:
            device.pwrite(start + first, memory[first:last])
        device.start_writeback(offset=start, length=end - start)
        return digest(memory[: end - start]).hex()


def _read_piece(
    source: CopySource, memory: memoryview, ranges: RangeColumns, length: int
) -> list[tuple[int, int]]:
    """Read the ranges to their places, with zeros around them up to `length`.

    Return (start, end) of the parts of the memory that are data, in whole units.
    """
    pieces, ends = [], 0
    for first, last in ranges.pieces():
        padded = -(-last // UNIT_BYTES) * UNIT_BYTES
        _clear(memory, ends, first)
        _clear(memory, last, padded)
        pieces.append((first, padded))
        ends = padded
    _clear(memory, ends, length)
    source.pread_ranges(ranges, memory)
    return pieces


def _clear(memory: memoryview, start: int, end: int) -> None:
    if end > start:
        np.frombuffer(memory, np.uint8)[start:end] = 0


def _window(copies: RangeColumns, start: int, end: int, volume_bytes: int) -> RangeColumns:
    """Return the parts of the copies whose places lie in [start, end), with places from `start`.

    Nothing behind the end of the volume is read.
    """
    copy_ends = copies.places + copies.lengths
    part = slice(
        int(np.searchsorted(copy_ends, start, "right")),
        int(np.searchsorted(copies.places, end, "left")),
    )
    places = np.maximum(copies.places[part], start)
    offsets = copies.offsets[part] + places - copies.places[part]
    lengths = np.minimum(copy_ends[part], end) - places
    lengths = np.minimum(lengths, volume_bytes - offsets)
    return RangeColumns(offsets, lengths, places - start)


def _used_pages(octets: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of pages of a table that aren't zeros."""
    pages = -(-len(octets) // UNIT_BYTES)
    padded = np.zeros(pages * UNIT_BYTES, np.uint8)
    padded[: len(octets)] = octets
    is_used = padded.reshape(pages, UNIT_BYTES).any(axis=1)
    edges = np.flatnonzero(np.diff(np.pad(is_used, 1).astype(np.int8)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield first * UNIT_BYTES, min(end * UNIT_BYTES, len(octets))


def _data_piece_bytes(image: LaidOutImage) -> int:
    return piece_bytes(
        image.file_bytes - image.data_offset,
        least_bytes=DATA_PIECE_BYTES,
        max_pieces=MAX_DATA_PIECES,
    )


def _digests(device: BlockDevice, image: LaidOutImage, data: list[str]) -> ImageDigests:
    """Return the digests of the file, whose tables are read back."""
    head_bytes = image.table_start * image.header.layout.cluster_bytes
    table_piece = piece_bytes(
        image.data_offset - head_bytes,
        least_bytes=TABLE_PIECE_BYTES,
        max_pieces=MAX_TABLE_PIECES,
    )
    return ImageDigests(
        file_bytes=image.file_bytes,
        head_bytes=head_bytes,
        data_offset=image.data_offset,
        table_piece_bytes=table_piece,
        data_piece_bytes=_data_piece_bytes(image),
        head=digest(device.pread(offset=0, length=head_bytes)).hex(),
        tables=tuple(
            digest(
                device.pread(offset=start, length=min(table_piece, image.data_offset - start))
            ).hex()
            for start in range(head_bytes, image.data_offset, table_piece)
        ),
        data=tuple(data),
    )
