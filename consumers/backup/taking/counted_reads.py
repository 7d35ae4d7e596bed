"""Reads of a source that are counted, and whose failures are told from those of the repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from mirrorlog.consumers.range_reads import CopySource
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import Data


class CountedReads:
    """CopySource of a point. Any number of threads may call it.

    failure: what the source raised first; None if it didn't fail.
    """

    def __init__(self, source: CopySource, on_read: Callable[[int], None]) -> None:
        """on_read: called with the number of bytes after each read; one thread at a time calls it.

        It may raise to give the point up.
        """
        self._source: Final = source
        self._on_read: Final = on_read
        self._lock: Final = Lock()
        self.failure: DeviceFailed | None = None

    def pread(self, *, offset: int, length: int) -> Data:
        """Do as CopySource.pread says."""
        with self._noting_failures():
            data = self._source.pread(offset=offset, length=length)
        self._count(length)
        return data

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as CopySource.pread_ranges says."""
        with self._noting_failures():
            self._source.pread_ranges(ranges, memory)
        self._count(int(ranges.lengths.sum()))

    def _count(self, length: int) -> None:
        with self._lock:
            self._on_read(length)

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        try:
            yield
        except DeviceFailed as error:
            self.failure = self.failure or error
            raise
