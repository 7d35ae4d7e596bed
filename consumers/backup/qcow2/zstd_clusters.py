"""Compressed clusters: zstd frames packed one after the other. Pure but for the library.

Source: the specification, "Compressed Clusters Descriptor"; RFC 8878, section 3.1.1, for where a
frame ends: a descriptor counts whole sectors, and the next frame begins in the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from mirrorlog.consumers.backup.qcow2.format import COMPRESSED, COPIED, UNIT_BYTES
from mirrorlog.consumers.backup.qcow2.unit_runs import Numbers
from mirrorlog.errors import StateDamaged

_SECTOR_BYTES: Final = 512
_LEVEL: Final = 3
_MAX_FRAME_BYTES: Final = UNIT_BYTES - _SECTOR_BYTES
"""A longer frame isn't worth it: the cluster is stored as it is.

So packed clusters never get longer: n frames take no more than n clusters.
"""
_OFFSET_BITS: Final = 62 - (12 - 8)
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_RLE_BLOCK: Final = 1


@dataclass(frozen=True, slots=True)
class PackedClusters:
    """Clusters as they lie in the file, from a cluster's boundary on.

    octets: whole clusters: the frames, then what isn't compressed. starts: of each cluster in
    `octets`. frame_bytes: the length of its frame; 0 for a cluster that isn't compressed.
    """

    octets: bytes
    starts: Numbers
    frame_bytes: Numbers

    def words(self, offset: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Return the entries of level 2, for `octets` at `offset` of the file."""
        starts = self.starts + offset
        sectors = (starts + self.frame_bytes - 1) // _SECTOR_BYTES - starts // _SECTOR_BYTES
        is_frame = self.frame_bytes > 0
        flags = np.array([COPIED, COMPRESSED], np.uint64)[is_frame.astype(np.intp)]
        counts = np.where(is_frame, sectors, 0).astype(np.uint64) << np.uint64(_OFFSET_BITS)
        return starts.astype(np.uint64) | counts | flags

    def users(self) -> Numbers:
        """Return how many clusters use each host cluster of `octets`, by whole sectors."""
        is_frame = self.frame_bytes > 0
        firsts = self.starts // UNIT_BYTES
        last_sectors = (self.starts + np.maximum(self.frame_bytes, 1) - 1) // _SECTOR_BYTES
        lasts = last_sectors * _SECTOR_BYTES // UNIT_BYTES
        numbers = np.concatenate((firsts, lasts[is_frame & (lasts > firsts)]))
        return np.bincount(numbers, minlength=len(self.octets) // UNIT_BYTES).astype(np.int64)


def pack_clusters(data: memoryview) -> PackedClusters:
    """Compress the clusters of `data`, one by one."""
    import cramjam

    frames, raw = [], []
    starts = np.zeros(len(data) // UNIT_BYTES, np.int64)
    frame_bytes = np.zeros(len(starts), np.int64)
    used = 0
    for number in range(len(starts)):
        cluster = bytes(data[number * UNIT_BYTES : (number + 1) * UNIT_BYTES])
        frame = bytes(cramjam.zstd.compress(cluster, level=_LEVEL))
        if len(frame) > _MAX_FRAME_BYTES:
            raw.append((number, cluster))
            continue
        starts[number], frame_bytes[number] = used, len(frame)
        used += len(frame)
        frames.append(frame)
    used = -(-used // UNIT_BYTES) * UNIT_BYTES
    octets = b"".join(frames).ljust(used, b"\0")
    for place, (number, _) in enumerate(raw):
        starts[number] = used + place * UNIT_BYTES
    return PackedClusters(octets + b"".join(cluster for _, cluster in raw), starts, frame_bytes)


def frame_place(descriptors: Numbers) -> tuple[Numbers, Numbers]:
    """Return the offset in the file, and the bytes to the end of the last sector, of each."""
    plain = descriptors & ((1 << 62) - 1)
    offsets = plain & ((1 << _OFFSET_BITS) - 1)
    sectors = (plain >> _OFFSET_BITS) + 1
    return offsets, sectors * _SECTOR_BYTES - offsets % _SECTOR_BYTES


def unpack_cluster(octets: bytes, where: str) -> bytes:
    """Return the cluster whose frame `octets` begins with. Raise StateDamaged if there is none."""
    import cramjam

    try:
        cluster = bytes(cramjam.zstd.decompress(octets[: _frame_end(octets)]))
    except (ValueError, IndexError, cramjam.DecompressionError) as error:
        raise _damaged(str(error), where) from error
    if len(cluster) != UNIT_BYTES:
        raise _damaged(f"it holds {len(cluster)} bytes", where)
    return cluster


def _frame_end(octets: bytes) -> int:
    """Return the length of the zstd frame at the beginning (RFC 8878, 3.1.1)."""
    if octets[:4] != _MAGIC:
        raise ValueError("no zstd frame begins there")
    descriptor = octets[4]
    is_single = bool(descriptor & 0x20)
    size_bytes = (1 if is_single else 0, 2, 4, 8)[descriptor >> 6]
    end = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3] + size_bytes
    while True:
        if end + 3 > len(octets):
            raise ValueError("the zstd frame doesn't end in its sectors")
        header = int.from_bytes(octets[end : end + 3], "little")
        end += 3 + (1 if header >> 1 & 3 == _RLE_BLOCK else header >> 3)
        if header & 1:
            return end + (4 if descriptor & 0x04 else 0)


def _damaged(what: str, where: str) -> StateDamaged:
    return StateDamaged(
        f"a compressed cluster can't be read: {what}",
        where=where,
        next="Run `mirrorlog backup check --read-data` to see which points are affected.",
    )
