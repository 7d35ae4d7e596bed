"""Generated contents for a replay, because a trace holds no payload.

Every version of every sector of every volume differs from all others. A sector has 512 bytes: 64
words, each of them the XOR of a fixed word and of a number that is made of (volume, sector,
version) and mixed by SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014). The lowest bit of
every byte is set, so that no byte reads as a hole.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

SECTOR_BYTES: Final = 512

_WORD: Final = np.dtype("<u8")
_MASK: Final = (1 << 64) - 1
# Both steps are odd: 64-bit multipliers of Steele and Vigna.
_VERSION_STEP: Final = 0xD1342543DE82EF95
_SECTOR_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_LOW_BITS: Final = np.uint64(0x0101010101010101)
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def fill(volume: str, *, offset: int, length: int, version: int) -> bytes:
    """Return `length` bytes of version `version` of `volume`, from byte `offset` on.

    A part of a range has the same bytes as the whole range has there. version: 0 to 2^64 - 1.
    """
    first, end = offset // SECTOR_BYTES, -(-(offset + length) // SECTOR_BYTES)
    seeds = np.arange(first, end, dtype=_WORD)
    seeds *= _SECTOR_STEP
    seeds += np.uint64((_volume_seed(volume) + version * _VERSION_STEP) & _MASK)
    words = (_mixed(seeds) | _LOW_BITS)[:, None] ^ _PATTERN
    skip = offset - first * SECTOR_BYTES
    if skip == 0 and length % SECTOR_BYTES == 0:
        return words.tobytes()
    return words.reshape(-1).view(np.uint8)[skip : skip + length].tobytes()


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply SplitMix64's finaliser, a bijection, to `words` in place; return `words`."""
    words ^= words >> _SHIFTS[0]
    words *= _FACTORS[0]
    words ^= words >> _SHIFTS[1]
    words *= _FACTORS[1]
    words ^= words >> _SHIFTS[2]
    return words


@lru_cache(maxsize=1 << 16)
def _volume_seed(volume: str) -> int:
    return int.from_bytes(hashlib.blake2b(volume.encode(), digest_size=8).digest(), "little")


_PATTERN: Final = _mixed(np.arange(1, 65, dtype=_WORD) * _SECTOR_STEP) & ~_LOW_BITS
