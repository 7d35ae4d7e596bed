"""Digests of ranges of a device. The one place that names the library of XXH3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

from mirrorlog.domain.verifications import (
    DIGEST_BYTES,
    ByteRange,
    DigestAlgorithm,
    parse_algorithm,
)
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.ports.task_runner import TaskRunner

Digest: TypeAlias = Callable[[Data], bytes]
"""Returns the DIGEST_BYTES bytes of a range."""

_PIECE_BYTES: Final = 4 << 20
"""As much of a range is read at a time."""


def digest_function(algorithm: str) -> Digest:
    """Return the function of an algorithm. Raise BadUse for a name that is none."""
    if parse_algorithm(algorithm) is DigestAlgorithm.BLAKE2B_128:
        return _blake2b
    import xxhash

    return xxhash.xxh3_128_digest


def _blake2b(data: Data) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digests_of(
    device: BlockDevice, ranges: Sequence[ByteRange], algorithm: str, tasks: TaskRunner
) -> bytes:
    """Return the digests of the ranges, one after the other.

    A range longer than 4 MiB has the digest of the digests of its pieces. What the device says that
    it hasn't allocated is taken as zeros without being read, which holds for whatever nobody
    changes meanwhile. Raise BadUse for an unknown algorithm, DeviceFailed.
    """
    digest = digest_function(algorithm)
    zeros: dict[int, bytes] = {}
    digests: list[bytes] = []

    def hash_range(extent: ByteRange, holds_data: bool) -> bytes:
        if holds_data:
            return _hash(device, extent, digest)
        if extent.length not in zeros:
            zeros[extent.length] = _hash_pieces(extent, lambda piece: bytes(piece.length), digest)
        return zeros[extent.length]

    holds_data = _allocated(device, ranges)
    calls = (
        partial(hash_range, extent, is_allocated)
        for extent, is_allocated in zip(ranges, holds_data, strict=True)
    )
    tasks.run(calls, digests.append)
    return b"".join(digests)


def _hash(device: BlockDevice, extent: ByteRange, digest: Digest) -> bytes:
    def read(piece: ByteRange) -> Data:
        return device.pread(offset=piece.offset, length=piece.length)

    return _hash_pieces(extent, read, digest)


def _hash_pieces(extent: ByteRange, read: Callable[[ByteRange], Data], digest: Digest) -> bytes:
    pieces = [digest(read(piece)) for piece in _pieces(extent)]
    return pieces[0] if len(pieces) == 1 else digest(b"".join(pieces))


def _pieces(extent: ByteRange) -> Iterator[ByteRange]:
    for offset in range(extent.offset, extent.end, _PIECE_BYTES):
        yield ByteRange(offset, min(_PIECE_BYTES, extent.end - offset))


def _allocated(device: BlockDevice, ranges: Sequence[ByteRange]) -> list[bool]:
    """Return whether each range may hold data."""
    order = sorted(range(len(ranges)), key=lambda index: ranges[index].offset)
    result = [False] * len(ranges)
    allocated = _from(device, ranges[order[0]].offset)
    offset, length = next(allocated, (1 << 64, 0))
    for index in order:
        while offset + length <= ranges[index].offset:
            offset, length = next(allocated, (1 << 64, 1))
        result[index] = offset < ranges[index].end
    return result


def _from(device: BlockDevice, start: int) -> Iterator[tuple[int, int]]:
    """Yield what may hold data from `start` on."""
    ranges: Iterable[tuple[int, int]] = device.allocated(start)
    return iter(ranges)
