"""The header of a qcow2 image, and the constants of its tables. Pure.

Source: QEMU's docs/interop/qcow2.txt ("the specification"), sections "Header", "Header
extensions", "Cluster mapping" and "Extended L2 Entries". All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from mirrorlog.errors import BadUse, StateDamaged

UNIT_BYTES: Final = 4096
"""A unit: the smallest part of an image that is data, zeros or unallocated, in both layouts."""
HEADER_PAGE_BYTES: Final = 4096
"""The header, its extensions and the name of the backing file fit in that."""
ZERO_FLAG: Final = 1
COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
OFFSET_MASK: Final = 0x00FFFFFFFFFFFE00
REFCOUNT_ORDER: Final = 4
REFCOUNT_BYTES: Final = (1 << REFCOUNT_ORDER) // 8
MAX_L1_BYTES: Final = 32 << 20
"""QEMU opens no image with a larger table of level 1 (specification, "size")."""

_MAGIC: Final = b"QFI\xfb"
_VERSION: Final = 3
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x")
_EXTENSION: Final = struct.Struct(">II")
_BACKING_FORMAT: Final = 0xE2792ACA
_IMAGE_ID: Final = 0x6D6C6267
"""The extension that holds an image's id. Readers ignore the types that they don't know."""
_COMPRESSION_TYPE: Final = 1 << 3
_EXTENDED_L2: Final = 1 << 4
_ZSTD: Final = 1
_SECTOR_BYTES: Final = 512


class ImageLayout(StrEnum):
    """How an image maps its units.

    SUBCLUSTERS: clusters of 128 KiB with 32 subclusters each (extended L2 entries).
    CLUSTERS: clusters of one unit each.
    """

    SUBCLUSTERS = "subclusters"
    CLUSTERS = "clusters"

    @property
    def cluster_bits(self) -> int:
        """The binary logarithm of the size of a cluster in bytes."""
        return 17 if self is ImageLayout.SUBCLUSTERS else 12

    @property
    def cluster_bytes(self) -> int:
        """The size of a cluster."""
        return 1 << self.cluster_bits

    @property
    def units(self) -> int:
        """The units of a cluster."""
        return self.cluster_bytes // UNIT_BYTES

    @property
    def entry_words(self) -> int:
        """The words of 8 bytes of an entry of level 2."""
        return 2 if self is ImageLayout.SUBCLUSTERS else 1

    @property
    def table_entries(self) -> int:
        """The entries of a table of level 2, which is one cluster."""
        return self.cluster_bytes // (8 * self.entry_words)

    @property
    def refcount_block_entries(self) -> int:
        """The reference counts of a refcount block, which is one cluster."""
        return self.cluster_bytes // REFCOUNT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What the header of an image says.

    size_bytes: of the virtual disk, a multiple of 512. backing: the name of the file below,
    relative to the folder of the image; None for an image that stands alone. image_id: None in an
    image that mirrorlog didn't write. The offsets are in bytes of the file.
    """

    layout: ImageLayout
    size_bytes: int
    backing: str | None
    image_id: UUID | None
    l1_entries: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    is_compressed: bool = False

    def pack(self) -> bytes:
        """Return the first page of the image. Raise BadUse for a name that doesn't fit."""
        name = (self.backing or "").encode()
        extensions = b""
        if self.image_id is not None:
            extensions += _extension(_IMAGE_ID, self.image_id.bytes)
        if self.backing is not None:
            extensions += _extension(_BACKING_FORMAT, b"qcow2")
        extensions += _extension(0, b"")
        name_offset = _HEADER.size + len(extensions)
        if not 0 < len(name) <= 1023 and self.backing is not None:
            raise BadUse(
                f"a backing file's name of {len(name)} bytes doesn't fit in an image",
                where=self.backing,
                next="Choose a name of 1 to 1,023 bytes.",
            )
        incompatible = _EXTENDED_L2 if self.layout is ImageLayout.SUBCLUSTERS else 0
        incompatible |= _COMPRESSION_TYPE if self.is_compressed else 0
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            name_offset if name else 0,
            len(name),
            self.layout.cluster_bits,
            self.size_bytes,
            0,  # not encrypted
            self.l1_entries,
            self.l1_offset,
            self.refcount_table_offset,
            self.refcount_table_clusters,
            0,  # no snapshots
            0,
            incompatible,
            0,
            0,
            REFCOUNT_ORDER,
            _HEADER.size,
            _ZSTD if self.is_compressed else 0,
        )
        return (header + extensions + name).ljust(HEADER_PAGE_BYTES, b"\0")

    @classmethod
    def unpack(cls, page: bytes, where: str) -> ImageHeader:
        """Return the header whose first page is this. where: the file, for errors.

        Raise StateDamaged for what isn't an image of one of the two layouts: encrypted images, and
        those with snapshots or an unknown feature, belong to nobody who keeps backups.
        """
        if len(page) < HEADER_PAGE_BYTES or page[:4] != _MAGIC:
            raise _damaged("its first bytes aren't those of a qcow2 image", where)
        fields = _HEADER.unpack_from(page)
        (_, version, name_offset, name_bytes, cluster_bits, size_bytes, crypt) = fields[:7]
        (l1_entries, l1_offset, refcounts, refcount_clusters, snapshots) = fields[7:12]
        (incompatible, _, _, order, header_bytes, compression) = fields[13:]
        layout = ImageLayout.SUBCLUSTERS if incompatible & _EXTENDED_L2 else ImageLayout.CLUSTERS
        is_compressed = bool(incompatible & _COMPRESSION_TYPE)
        if (
            version != _VERSION
            or incompatible & ~(_EXTENDED_L2 | _COMPRESSION_TYPE)
            or cluster_bits != layout.cluster_bits
            or crypt
            or snapshots
            or order != REFCOUNT_ORDER
            or header_bytes != _HEADER.size
            or (is_compressed and compression != _ZSTD)
        ):
            raise _damaged("its header isn't one that mirrorlog writes", where)
        if name_offset + name_bytes > HEADER_PAGE_BYTES:
            raise _damaged("the name of its backing file isn't in its first page", where)
        name = page[name_offset : name_offset + name_bytes] if name_offset else b""
        image_id = _extensions(page, where).get(_IMAGE_ID)
        try:
            return cls(
                layout=layout,
                size_bytes=size_bytes,
                backing=name.decode() if name else None,
                image_id=UUID(bytes=image_id) if image_id is not None else None,
                l1_entries=l1_entries,
                l1_offset=l1_offset,
                refcount_table_offset=refcounts,
                refcount_table_clusters=refcount_clusters,
                is_compressed=is_compressed,
            )
        except ValueError as error:
            raise _damaged("its header holds an invalid id or name", where) from error


def disk_bytes(size_bytes: int) -> int:
    """Return the size of the virtual disk for a volume: QEMU knows whole sectors only."""
    return -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES


def l1_entries(size_bytes: int, layout: ImageLayout) -> int:
    """Return how many tables of level 2 map a disk. Raise BadUse if QEMU can't have so many."""
    count = -(-size_bytes // (layout.table_entries * layout.cluster_bytes))
    if count * 8 > MAX_L1_BYTES:
        raise BadUse(
            f"a volume of {size_bytes} bytes is too large for an image of layout '{layout}'",
            next="Use the layout 'subclusters', without compression.",
        )
    return count


def _extension(kind: int, data: bytes) -> bytes:
    return _EXTENSION.pack(kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def _extensions(page: bytes, where: str) -> dict[int, bytes]:
    """Return the data of the header extensions by type."""
    extensions: dict[int, bytes] = {}
    offset = _HEADER.size
    while offset + _EXTENSION.size <= len(page):
        kind, length = _EXTENSION.unpack_from(page, offset)
        if not kind:
            return extensions
        offset += _EXTENSION.size
        extensions[kind] = page[offset : offset + length]
        offset += -(-length // 8) * 8
    raise _damaged("its header extensions don't end", where)


def _damaged(what: str, where: str) -> StateDamaged:
    return StateDamaged(
        f"the image can't be read: {what}",
        where=where,
        next="Run `mirrorlog backup check` to see which points are affected.",
    )
