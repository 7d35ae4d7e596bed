"""Finds what is damaged in the file of an image, and which ranges of the volume are lost with it.

Everything else of the image can be trusted: a piece is right if its digest is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.backup.qcow2.image_digests import ImageDigests, digest
from mirrorlog.consumers.backup.qcow2.image_map import ImageMap, read_map
from mirrorlog.consumers.backup.qcow2.mapped_runs import MappedRuns, RunKind
from mirrorlog.consumers.backup.qcow2.unit_runs import Runs, merged
from mirrorlog.consumers.backup.qcow2.zstd_clusters import frame_place
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.devices import ReadsRange


class ImagePart(StrEnum):
    """The parts of a file. HEAD: the header, the table of level 1 and the reference counts."""

    HEAD = "head"
    TABLES = "tables"
    DATA = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDamage:
    """A piece [offset, offset + length) of a file that isn't what was written.

    reason: for people. guest_ranges: (offset, length) in the volume of what can't be trusted, at
    this point and at all that stand on it; ascending. Those of a table name all that it maps.
    """

    part: ImagePart
    offset: int
    length: int
    reason: str
    guest_ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FilePiece:
    """A piece of a file, and the digest that it must have, in hexadecimal."""

    part: ImagePart
    offset: int
    length: int
    digest: str


def check_image(
    path: Path, digests: ImageDigests, *, size_bytes: int, read_data: bool
) -> list[ImageDamage]:
    """Return what is damaged in the image at `path`, ascending.

    digests: of when it was written. size_bytes: of the volume at the point. read_data: read all of
    the file; otherwise the header and the tables only. Raise DeviceFailed if the file can't be
    opened, BadUse if it is no file.
    """
    with FileDevice(path, writable=False) as device:
        failures = [
            (piece, reason)
            for piece in file_pieces(digests, read_data=read_data)
            if (reason := piece_failure(device.pread, piece, size_bytes=device.size_bytes))
            is not None
        ]
        image = _trusted_map(device, [piece for piece, _ in failures])
        damages = [
            ImageDamage(
                part=piece.part,
                offset=piece.offset,
                length=piece.length,
                reason=reason,
                guest_ranges=_guest_ranges(piece, image, size_bytes),
            )
            for piece, reason in failures
        ]
        if device.size_bytes > digests.file_bytes:
            damages.append(
                ImageDamage(
                    part=ImagePart.DATA,
                    offset=digests.file_bytes,
                    length=device.size_bytes - digests.file_bytes,
                    reason="the file is longer than it was written",
                    guest_ranges=(),
                )
            )
        return damages


def file_pieces(digests: ImageDigests, *, read_data: bool) -> Iterator[FilePiece]:
    """Yield the pieces of a file, ascending. read_data: with those of the data."""
    yield FilePiece(ImagePart.HEAD, 0, digests.head_bytes, digests.head)
    yield from _equal_pieces(
        ImagePart.TABLES,
        range(digests.head_bytes, digests.data_offset, digests.table_piece_bytes),
        digests.tables,
    )
    if read_data:
        yield from _equal_pieces(
            ImagePart.DATA,
            range(digests.data_offset, digests.file_bytes, digests.data_piece_bytes),
            digests.data,
        )


def _equal_pieces(part: ImagePart, starts: range, expected: tuple[str, ...]) -> Iterator[FilePiece]:
    for start, text in zip(starts, expected, strict=True):
        yield FilePiece(part, start, min(starts.step, starts.stop - start), text)


def piece_failure(read: ReadsRange, piece: FilePiece, *, size_bytes: int) -> str | None:
    """Return what is wrong with a piece; None if nothing is. size_bytes: of the file."""
    if piece.offset + piece.length > size_bytes:
        return "the file ends before it"
    try:
        actual = digest(read(offset=piece.offset, length=piece.length)).hex()
    except DeviceFailed as error:
        return error.what
    return None if actual == piece.digest else "its bytes aren't those that were written"


def _trusted_map(device: FileDevice, damaged: list[FilePiece]) -> ImageMap | None:
    """Return the map without the damaged tables; None if the head is damaged, or nothing is."""
    if not damaged or damaged[0].part is ImagePart.HEAD:
        return None
    tables = [
        range(piece.offset, piece.offset + piece.length)
        for piece in damaged
        if piece.part is ImagePart.TABLES
    ]
    try:
        return read_map(device, left_out=tables)
    except StateDamaged:  # the file ends before its tables do
        return None


def _guest_ranges(
    piece: FilePiece, image: ImageMap | None, size_bytes: int
) -> tuple[tuple[int, int], ...]:
    """Return what of the volume can't be trusted if a piece can't."""
    if piece.part is ImagePart.HEAD or image is None:
        return ((0, size_bytes),)
    end = piece.offset + piece.length
    if piece.part is ImagePart.TABLES:
        layout = image.header.layout
        tables = np.flatnonzero((image.l2_offsets >= piece.offset) & (image.l2_offsets < end))
        mapped = layout.table_entries * layout.cluster_bytes
        lost = Runs(tables * mapped, (tables + 1) * mapped)
    else:
        lost = _lost_data(image.runs, piece.offset, end)
    lost = merged(lost).between(0, size_bytes)
    return tuple(zip(lost.firsts.tolist(), (lost.ends - lost.firsts).tolist(), strict=True))


def _lost_data(runs: MappedRuns, offset: int, end: int) -> Runs:
    """Return the bytes of the volume of which a part lies in [offset, end) of the file."""
    data = runs.where(runs.kinds == RunKind.DATA)
    starts = np.maximum(data.places, offset)
    ends = np.minimum(data.places + data.ends - data.starts, end)
    is_hit = ends > starts
    shift = (data.starts - data.places)[is_hit]
    packed = runs.where(runs.kinds == RunKind.COMPRESSED)
    frames, sizes = frame_place(packed.places)
    packed = packed.where((frames < end) & (frames + sizes > offset))
    return Runs(
        np.concatenate((starts[is_hit] + shift, packed.starts)),
        np.concatenate((ends[is_hit] + shift, packed.ends)),
    )
