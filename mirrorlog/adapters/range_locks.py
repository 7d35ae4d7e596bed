"""Locks of ranges, for devices that read, change and write back whole blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from threading import Condition
from typing import Final


def pieces(*, offset: int, length: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the pieces of a range, cut at multiples of `most_bytes`."""
    end = offset + length
    while offset < end:
        piece_end = min(offset - offset % most_bytes + most_bytes, end)
        yield offset, piece_end - offset
        offset = piece_end


class RangeLocks:
    """Locks of ranges between threads. Overlapping ones are granted in the order of requests."""

    def __init__(self) -> None:
        self._requests: Final[dict[object, tuple[int, int]]] = {}
        self._released: Final = Condition()

    @contextmanager
    def held(self, *, first: int, end: int) -> Iterator[None]:
        """Hold [first, end) in the context. Wait for earlier holders of overlapping ranges."""
        me = object()
        with self._released:
            self._requests[me] = (first, end)
            while not self._is_first(me, first, end):
                self._released.wait()
        try:
            yield
        finally:
            with self._released:
                del self._requests[me]
                self._released.notify_all()

    def _is_first(self, me: object, first: int, end: int) -> bool:
        earlier = takewhile(lambda other: other is not me, self._requests)
        return not any(
            first < self._requests[other][1] and self._requests[other][0] < end for other in earlier
        )
