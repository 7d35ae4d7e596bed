"""Chooses the partition of a new volume as Kafka's default partitioner does.

The volume's description then keeps it (docs/decisions/volume-partitions.md).
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995


def partition_of(volume: str, partitions: int) -> int:
    """Return the partition of a new volume, in [0, partitions).

    It is murmur2 of the name, as org.apache.kafka.common.utils.Utils.murmur2 computes it, made
    positive, modulo `partitions`.
    """
    return (_murmur2(volume.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    h = (0x9747B28C ^ len(data)) & _MASK
    whole = len(data) & ~3
    for index in range(0, whole, 4):
        k = int.from_bytes(data[index : index + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)
