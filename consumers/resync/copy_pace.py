"""Waits before each batch of a copy, so that a site keeps its rates."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from mirrorlog.consumers.range_reads import CopySource, DeviceReader
from mirrorlog.consumers.resync.copy_rate import RateSchedule, TokenBucket
from mirrorlog.consumers.resync.copy_yield import PrimaryRead, YieldState, after_read
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, Data


class CopyPausedError(Exception):
    """The copy that runs ends here.

    An operator has paused its secondary, or another worker is to have a partition.
    """


_STEP_S: Final = 0.1
"""A wait is cut into steps, because the rate may change meanwhile, and the site may be stopped."""
_LEAST_BYTES: Final = 64 << 10
_STEPS_PER_S: Final = 4
_MAX_READS: Final = 4096
"""So many reads are kept until the next batch is paced. More say nothing more of the load."""


def local_minute(now_us: int) -> int:
    """Return the minute of the day in this machine's time zone."""
    now = time.localtime(now_us / 1e6)
    return now.tm_hour * 60 + now.tm_min


class CopyPace:
    """The pace of all copies of one process of a site.

    One thread calls it, and any thread calls what reads() returns.

    sleep: waits so many seconds. minute_of: returns the minute of the day of a time by the clock.
    worker_count: returns how many workers of the site share the rate now.
    """

    def __init__(
        self,
        schedule: RateSchedule,
        clock: Clock,
        sleep: Callable[[float], None] = time.sleep,
        minute_of: Callable[[int], int] = local_minute,
        worker_count: Callable[[], int] = lambda: 1,
    ) -> None:
        self._schedule: Final = schedule
        self._clock: Final = clock
        self._sleep: Final = sleep
        self._minute_of: Final = minute_of
        self._worker_count: Final = worker_count
        self._bucket: Final = TokenBucket()
        self._load = YieldState()
        self._reads: Final[deque[PrimaryRead]] = deque(maxlen=_MAX_READS)

    def rate_bytes_s(self) -> int | None:
        """Return the bytes per second that this process may copy now; None for no limit."""
        if self._schedule.is_unlimited:
            return None
        rate = self._schedule.rate_at(self._minute_of(self._clock.now_us()))
        limit = rate.limit_bytes_s
        if limit is not None:
            limit = max(limit // self._worker_count(), min(limit, 1))
        if not rate.is_adaptive:
            return limit
        yielding = int(self._load.rate_bytes_s)
        return yielding if limit is None else min(yielding, limit)

    def reads(self, primary: BlockDevice) -> CopySource:
        """Return what reads the primary for a copy. An adaptive rate measures how long it takes."""
        reader = DeviceReader(primary)
        if not self._schedule.is_adaptive:
            return reader
        return _MeasuredReader(reader, self._reads.append, self._clock.monotonic_s)

    def batch_bytes(self, most_bytes: int) -> int:
        """Return how many bytes a batch should have at most, so that a slow copy isn't jerky."""
        rate = self.rate_bytes_s()
        if rate is None:
            return most_bytes
        return min(most_bytes, max(_LEAST_BYTES, rate // _STEPS_PER_S))

    def wait(self, size_bytes: int, on_wait: Callable[[], None]) -> None:
        """Wait until `size_bytes` may be copied. `on_wait` is called between the steps of a wait.

        What it raises ends the wait.
        """
        if self._schedule.is_unlimited:
            return
        self._take_reads()
        while rest_s := self._bucket.wait_s(self._clock.monotonic_s(), self.rate_bytes_s()):
            self._sleep(min(rest_s, _STEP_S))
            on_wait()
        self._bucket.take(size_bytes)

    def _take_reads(self) -> None:
        """Let the reads of the primary that have ended change the adaptive rate."""
        now_s = self._clock.monotonic_s()
        while self._reads:
            self._load = after_read(self._load, self._reads.popleft(), now_s=now_s)


class _MeasuredReader:
    """A CopySource that measures how long each call of another one takes."""

    def __init__(
        self,
        reader: CopySource,
        note: Callable[[PrimaryRead], None],
        now_s: Callable[[], float],
    ) -> None:
        self._reader, self._note, self._now_s = reader, note, now_s

    def pread(self, *, offset: int, length: int) -> Data:
        """Read as CopySource says."""
        begin_s = self._now_s()
        data = self._reader.pread(offset=offset, length=length)
        self._note(PrimaryRead(length, 1, self._now_s() - begin_s, begin_s))
        return data

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Read as CopySource says: at once, and measured as one read."""
        begin_s = self._now_s()
        self._reader.pread_ranges(ranges, memory)
        latency_s = self._now_s() - begin_s
        self._note(PrimaryRead(ranges.size_bytes, len(ranges), latency_s, begin_s))
