"""Waits before each batch of a copy, so that a site keeps its rates."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from mirrorlog.consumers.resync.copy_rate import RateSchedule, TokenBucket
from mirrorlog.consumers.resync.copy_yield import YieldState, after_read
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, Data, ReadsRange


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
        self._reads: Final[deque[tuple[int, float]]] = deque(maxlen=_MAX_READS)

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

    def reads(self, primary: BlockDevice) -> ReadsRange:
        """Return what reads the primary for a copy. An adaptive rate measures how long it takes."""
        pread = primary.pread
        if not self._schedule.is_adaptive:
            return pread
        reads, now_s = self._reads, self._clock.monotonic_s

        def measured(*, offset: int, length: int) -> Data:
            begin_s = now_s()
            data = pread(offset=offset, length=length)
            reads.append((length, now_s() - begin_s))
            return data

        return measured

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
            size_bytes, latency_s = self._reads.popleft()
            self._load = after_read(
                self._load, size_bytes=size_bytes, latency_s=latency_s, now_s=now_s
            )
