"""The port to time. Times are for people and for pacing, never for order (invariant 10)."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock for people, and a clock that only goes forward."""

    def now_us(self) -> int:
        """Return microseconds since 1970, UTC."""

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary moment. The value never decreases."""


class SystemClock:
    """The clocks of this machine."""

    def now_us(self) -> int:
        """Return microseconds since 1970, UTC."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary moment. The value never decreases."""
        return time.monotonic()
