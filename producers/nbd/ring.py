"""The host's view of the ring (ring.h has the protocol): a segment shared with nbdkit, and the calls of its native part."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import BadUse

MAGIC: Final = 0x31474E49524C4D
HEADER_BYTES: Final = 256
SLOT_BYTES: Final = 64
SLOTS: Final = 16_384
MOST_REGIONS: Final = 1 << 30
EXTENT: Final = np.dtype([("offset", "<u8"), ("length", "<u8"), ("at_us", "<u8"), ("kind", "<u8")])
MESSAGE: Final = struct.Struct("<I4xQQQ")
"""struct ml_message: what, position, offset, length."""
GRANT_REQUEST: Final = 1

Extents = npt.NDArray[Any]
"""Of dtype EXTENT."""


@dataclass(frozen=True, slots=True)
class RingGeometry:
    """The volume that a ring serves, and the ring's limits.

    max_write_bytes: nbdkit splits its writes at multiples of this.
    notify_every: nbdkit notifies the host each time that it has claimed this many slots.
    slots: a power of two.
    """

    size_bytes: int
    region_bytes: int
    max_write_bytes: int
    notify_every: int
    slots: int = SLOTS

    @property
    def regions(self) -> int:
        """How many regions the volume has."""
        return -(-self.size_bytes // self.region_bytes)

    def numbers(self, offset: int, length: int) -> range:
        """The regions of a range."""
        return range(offset // self.region_bytes, (offset + length - 1) // self.region_bytes + 1)


class Ring:
    """One thread at a time may call heat, cool and collect; the writers' calls (begin, may_write, end) are for tests."""

    def __init__(self, library: Path, geometry: RingGeometry) -> None:
        """BadUse for a volume of more regions than a segment is made for."""
        if geometry.regions > MOST_REGIONS:
            raise BadUse(
                f"a volume of {geometry.regions} regions is too large for the native filter",
                next="Set larger regions (region_bytes), or serve it with --through plugin.",
            )
        self.geometry: Final = geometry
        self._library: Final = ctypes.CDLL(str(library))
        self._library.ml_ring_revoke.restype = self._library.ml_ring_tail.restype = ctypes.c_uint64
        self.fd: Final = os.memfd_create("mirrorlog-ring")
        size = HEADER_BYTES + SLOT_BYTES * geometry.slots + geometry.regions
        os.ftruncate(self.fd, size)
        self._memory: Final = mmap.mmap(self.fd, size)
        numbers = (
            geometry.slots,
            geometry.region_bytes,
            geometry.size_bytes,
            geometry.max_write_bytes,
            geometry.regions,
        )
        self._memory[:64] = struct.pack("<8Q", MAGIC, *numbers, geometry.notify_every, 0)
        self._first: Final = ctypes.c_char.from_buffer(self._memory)
        self._at: Final = ctypes.c_void_p(ctypes.addressof(self._first))
        self._ended: Final = np.zeros(geometry.slots, EXTENT)
        self._in_flight: Final = np.zeros(geometry.slots, EXTENT)
        self._counts: Final = (ctypes.c_uint64(), ctypes.c_uint64())

    def grant(self, regions: Iterable[int]) -> None:
        """Writes may begin in these regions (H2), which are durable in the activity log."""
        for region in regions:
            self._library.ml_ring_grant(self._at, ctypes.c_uint64(region))

    def revoke(self, regions: Iterable[int]) -> int:
        """No write begins there any more without asking (C1). All that had begun are taken once `tail` is there (C2)."""
        numbers = np.fromiter(regions, np.uint64)
        return int(
            self._library.ml_ring_revoke(self._at, numbers.ctypes, ctypes.c_uint64(len(numbers)))
        )

    @property
    def tail(self) -> int:
        """All writes below that position are taken."""
        return int(self._library.ml_ring_tail(self._at))

    def collect(self, *, orphaned: bool = False) -> tuple[Extents, Extents]:
        """(writes that have ended and weren't taken before, writes in flight).

        orphaned: nbdkit is dead: what it had in flight has ended.
        """
        ended, in_flight = self._counts
        self._library.ml_ring_collect(
            *(
                self._at,
                int(orphaned),
                self._ended.ctypes,
                ctypes.byref(ended),
                self._in_flight.ctypes,
            ),
            ctypes.byref(in_flight),
        )
        return self._ended[: ended.value].copy(), self._in_flight[: in_flight.value].copy()

    @property
    def has_writes(self) -> bool:
        """Whether collect() would find anything."""
        return bool(self._library.ml_ring_has_writes(self._at))

    @property
    def failed(self) -> int:
        """Why no write begins any more, as an errno; 0 while they do."""
        return int(self._library.ml_ring_failed(self._at))

    def fail(self, code: int) -> None:
        """No write begins any more."""
        self._library.ml_ring_fail(self._at, code)

    def begin(self, kind: ExtentKind, offset: int, length: int, at_us: int) -> int | None:
        """W1 and W2: its position; None where the ring is full."""
        position = ctypes.c_uint64()
        code = self._library.ml_ring_begin(
            *(
                self._at,
                int(kind),
                ctypes.c_uint64(offset),
                ctypes.c_uint64(length),
                ctypes.c_uint64(at_us),
            ),
            ctypes.byref(position),
        )
        return None if code else position.value

    def may_write(self, offset: int, length: int) -> bool:
        """W3."""
        return bool(
            self._library.ml_ring_may_write(
                self._at, ctypes.c_uint64(offset), ctypes.c_uint64(length)
            )
        )

    def end(self, position: int, kind: ExtentKind, *, touched: bool = True) -> None:
        """W5, or VOID."""
        self._library.ml_ring_end(
            self._at, ctypes.c_uint64(position), 2 if touched else 3, int(kind)
        )

    def close(self) -> None:
        """Lets go of the segment; nbdkit's mapping stays as long as it lives."""
        self._at.value = None
        del self._first
        self._memory.close()
        os.close(self.fd)


def regions_of(extents: Extents, region_bytes: int) -> Iterator[int]:
    """Every region that an extent touches, each once, ascending."""
    if len(extents):
        first = extents["offset"] // np.uint64(region_bytes)
        last = (extents["offset"] + extents["length"] - np.uint64(1)) // np.uint64(region_bytes)
        several = first != last
        spans = [
            np.arange(low, high + 1, dtype=np.uint64)
            for low, high in zip(first[several], last[several], strict=True)
        ]
        yield from np.unique(np.concatenate([first, *spans])).tolist()
