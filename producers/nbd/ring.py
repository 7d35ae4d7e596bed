"""The ring as the host uses it: the segment shared with nbdkit, and calls of ring.c.

ring.h has the protocol and the layout.
"""

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

MAGIC: Final = 0x33474E49524C4D
"""ML_MAGIC of ring.h."""
SLOT_BYTES: Final = 64
SLOTS: Final = 16_384
MOST_REGIONS: Final = 1 << 30
EXTENT: Final = np.dtype(
    [(name, "<u8") for name in ("offset", "length", "at_us", "kind", "forked")]
)
"""struct ml_extent of ring.h."""
MESSAGE: Final = struct.Struct("<I4xQQQ")
"""struct ml_message of ring.h: what, position, offset, length."""
ANSWER: Final = struct.Struct("<IIQ16x")
"""struct ml_message as an answer: errno, how many more answers the packet holds, position."""
MOST_ANSWERS: Final = 64
"""ML_MOST_ANSWERS of ring.h."""
GRANT_REQUEST: Final = 1
"""ML_REQUEST_GRANT of ring.h."""
GRANT_AHEAD: Final = 4
"""ML_GRANT_AHEAD of ring.h."""
CLOSE_BATCH: Final = 2
"""ML_CLOSE_BATCH of ring.h."""
FLUSH_FORKS: Final = 3
"""ML_FLUSH_FORKS of ring.h."""

RingExtents = npt.NDArray[Any]
"""A one-dimensional array of dtype EXTENT."""


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
    def region_count(self) -> int:
        """Return the number of the volume's regions."""
        return -(-self.size_bytes // self.region_bytes)

    def regions_of(self, *, offset: int, length: int) -> range:
        """Return the numbers of the regions that [offset, offset + length) touches, in bytes."""
        return range(offset // self.region_bytes, (offset + length - 1) // self.region_bytes + 1)


class Ring:
    """A ring in a new segment.

    One thread at a time may call grant, revoke and collect. The writers' calls (begin, may_write,
    clear_markers, end) are for tests.

    fd: the descriptor of the segment, which nbdkit inherits.
    """

    def __init__(self, library: Path, geometry: RingGeometry) -> None:
        """Create the segment.

        library: the shared library of ring.c (build_ring).
        Raise BadUse if the volume has more than MOST_REGIONS regions.
        """
        if geometry.region_count > MOST_REGIONS:
            raise BadUse(
                f"a volume of {geometry.region_count} regions is too large for the native filter",
                next="Set larger regions (region_bytes), or serve it with --through plugin.",
            )
        self.geometry: Final = geometry
        self._library: Final = ctypes.CDLL(str(library))
        self._library.ml_ring_revoke.restype = self._library.ml_ring_tail.restype = ctypes.c_uint64
        self._library.ml_ring_header_bytes.restype = ctypes.c_uint64
        self._library.ml_forks_ends.restype = ctypes.c_uint64
        self.fd: Final = os.memfd_create("mirrorlog-ring")
        header_bytes = int(self._library.ml_ring_header_bytes())
        size = header_bytes + SLOT_BYTES * geometry.slots + geometry.region_count
        os.ftruncate(self.fd, size)
        self._memory: Final = mmap.mmap(self.fd, size)
        self._memory[:64] = struct.pack(
            "<8Q",
            MAGIC,
            geometry.slots,
            geometry.region_bytes,
            geometry.size_bytes,
            geometry.max_write_bytes,
            geometry.region_count,
            geometry.notify_every,
            0,
        )
        self._first: Final = ctypes.c_char.from_buffer(self._memory)
        self._at: Final = ctypes.c_void_p(ctypes.addressof(self._first))
        self._ended: Final = np.zeros(geometry.slots, EXTENT)
        self._in_flight: Final = np.zeros(geometry.slots, EXTENT)
        self._counts: Final = (ctypes.c_uint64(), ctypes.c_uint64())

    @property
    def address_and_library(self) -> tuple[ctypes.c_void_p, ctypes.CDLL]:
        """The segment, NULL once the ring is closed, and the library, for ring_forks.py."""
        return self._at, self._library

    def grant(self, regions: Iterable[int], *, marked: int | None = None) -> None:
        """Let writes begin in these regions (G2). They must be durable in the activity log.

        marked: one of the regions gets a marker.
        """
        numbers = np.fromiter(regions, np.uint64)
        self._library.ml_ring_grant(
            self._at,
            numbers.ctypes,
            ctypes.c_uint64(len(numbers)),
            ctypes.c_uint64(self.geometry.region_count if marked is None else marked),
        )

    def revoke(self, regions: Iterable[int]) -> int:
        """Let no write begin in these regions without a new grant (R1).

        Return the position of `tail` from which on all writes that had begun are collected (R2).
        """
        numbers = np.fromiter(regions, np.uint64)
        return int(
            self._library.ml_ring_revoke(self._at, numbers.ctypes, ctypes.c_uint64(len(numbers)))
        )

    @property
    def tail(self) -> int:
        """The position below which all writes are collected."""
        return int(self._library.ml_ring_tail(self._at))

    def collect(self, *, orphaned: bool = False) -> tuple[RingExtents, RingExtents]:
        """Return the writes that have ended since the last call, and the writes in flight (B1).

        Set `orphaned` if nbdkit is dead: its writes in flight have then ended.
        """
        ended, in_flight = self._counts
        self._library.ml_ring_collect(
            self._at,
            int(orphaned),
            self._ended.ctypes,
            ctypes.byref(ended),
            self._in_flight.ctypes,
            ctypes.byref(in_flight),
        )
        return self._ended[: ended.value].copy(), self._in_flight[: in_flight.value].copy()

    @property
    def has_writes(self) -> bool:
        """Return whether there is a write in flight, or one that has ended and isn't collected."""
        return bool(self._library.ml_ring_has_writes(self._at))

    @property
    def failed(self) -> int:
        """The errno with which the volume has failed, so that no write begins; 0 otherwise."""
        return int(self._library.ml_ring_failed(self._at))

    def fail(self, code: int) -> None:
        """Let no further write begin. `code` is an errno."""
        self._library.ml_ring_fail(self._at, code)

    def begin(self, kind: ExtentKind, *, offset: int, length: int, at_us: int) -> int | None:
        """Begin a write (W1 and W2). Return its position, or None if the ring is full."""
        position = ctypes.c_uint64()
        code = self._library.ml_ring_begin(
            self._at,
            int(kind),
            ctypes.c_uint64(offset),
            ctypes.c_uint64(length),
            ctypes.c_uint64(at_us),
            ctypes.byref(position),
        )
        return None if code else position.value

    def may_write(self, *, offset: int, length: int) -> bool:
        """Return whether all regions of the range are granted (W3)."""
        return bool(
            self._library.ml_ring_may_write(
                self._at, ctypes.c_uint64(offset), ctypes.c_uint64(length)
            )
        )

    def clear_markers(self, *, offset: int, length: int) -> bool:
        """Clear the markers of a granted range (W3). Return whether there was one."""
        return bool(
            self._library.ml_ring_clear_markers(
                self._at, ctypes.c_uint64(offset), ctypes.c_uint64(length)
            )
        )

    def end(self, position: int, kind: ExtentKind, *, touched: bool = True) -> None:
        """End a write (W5). Clear `touched` if it wrote nothing, which makes its slot VOID."""
        self._library.ml_ring_end(
            self._at, ctypes.c_uint64(position), 2 if touched else 3, int(kind)
        )

    def close(self) -> None:
        """Unmap the segment. nbdkit keeps its own mapping until it ends."""
        self._at.value = None
        del self._first
        self._memory.close()
        os.close(self.fd)


def regions_touched(extents: RingExtents, region_bytes: int) -> Iterator[int]:
    """Yield the number of each region that an extent touches, once, in ascending order."""
    if len(extents):
        first = extents["offset"] // np.uint64(region_bytes)
        last = (extents["offset"] + extents["length"] - np.uint64(1)) // np.uint64(region_bytes)
        numbers = set(first.tolist())
        crossing = first != last
        for low, high in zip(first[crossing].tolist(), last[crossing].tolist(), strict=True):
            numbers.update(range(low, high + 1))
        yield from sorted(numbers)
