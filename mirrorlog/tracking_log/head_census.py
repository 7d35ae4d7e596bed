"""HeadCensus: one number for all heads of a partition, to hold a mirror against the log."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from mirrorlog.tracking_log.keys import HEAD_PREFIX

_MODULUS: Final = 1 << 63


class HeadCensus:
    """The heads of one partition: how many there are, and the sum of their digests.

    Two readers that have noted other rows in another order agree if the last value of every head is
    the same for both. A head names where its volume's chain of records ends, so equal heads make
    every missing record a hole that a reader finds (VolumeLog.hole).
    """

    def __init__(self) -> None:
        self._digests: Final[dict[bytes, int]] = {}
        self.digest = 0

    def __len__(self) -> int:
        return len(self._digests)

    def note(self, key: bytes, value: bytes | None) -> None:
        """Note a row of the log. Rows that aren't heads don't count. value: None deletes it."""
        if not key.startswith(HEAD_PREFIX):
            return
        before = self._digests.pop(key, 0)
        now = 0
        if value is not None:
            now = self._digests[key] = _digest(key, value)
        self.digest = (self.digest - before + now) % _MODULUS


def _digest(key: bytes, value: bytes) -> int:
    digest = blake2b(len(key).to_bytes(8, "big"), digest_size=8)
    digest.update(key)
    digest.update(value)
    return int.from_bytes(digest.digest(), "big") % _MODULUS
