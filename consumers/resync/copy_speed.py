"""How fast a copy runs, and how long it will take, by what was copied in the last seconds (pure).

Nothing is claimed before enough was seen: there is no rate in the first seconds, and no time to the
end while nothing moves or while nobody knows how much is left.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

WINDOW_S: Final = 15.0
"""The rate is that of the last seconds: a copy slows down when the primary is busy."""
MIN_SPAN_S: Final = 3.0
"""A copy that is younger has no rate yet."""
_STEP_S: Final = 0.25
"""Two samples are at least this far apart, so that there are few of them."""

CopySample: TypeAlias = tuple[float, int]
"""A time in seconds of the monotonic clock, and the bytes copied until then."""


@dataclass(frozen=True, slots=True)
class CopySpeed:
    """rate_bytes_s: in the window; None if unknown. eta_s: until the end; None if unknown."""

    rate_bytes_s: float | None
    eta_s: float | None


UNKNOWN_SPEED: Final = CopySpeed(None, None)


def copy_speed(
    samples: Sequence[CopySample], *, total_bytes: int | None, now_s: float
) -> CopySpeed:
    """Return the speed of a copy at `now_s`.

    samples: ascending; the first one is the copy's begin, with 0 bytes, or older than the window.
    total_bytes: what the whole copy reads; None if nobody knows.
    """
    if not samples:
        return UNKNOWN_SPEED
    base = max(0, bisect_right([at_s for at_s, _ in samples], now_s - WINDOW_S) - 1)
    begin_s, begin_bytes = samples[base]
    copied = samples[-1][1]
    if now_s - begin_s < MIN_SPAN_S:
        return UNKNOWN_SPEED
    rate_bytes_s = (copied - begin_bytes) / (now_s - begin_s)
    if total_bytes is None or rate_bytes_s <= 0:
        return CopySpeed(rate_bytes_s, None)
    return CopySpeed(rate_bytes_s, max(0, total_bytes - copied) / rate_bytes_s)


@dataclass(slots=True)
class CopyMeter:
    """The samples of one copy. total_bytes: what the whole copy reads; None if nobody knows."""

    begin_s: float
    total_bytes: int | None
    copied_bytes: int = 0
    _samples: list[CopySample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._samples.append((self.begin_s, 0))

    def note_copied(self, size_bytes: int, now_s: float) -> None:
        """Count bytes that were copied."""
        self.copied_bytes += size_bytes
        if len(self._samples) > 1 and now_s - self._samples[-2][0] < _STEP_S:
            self._samples[-1] = (now_s, self.copied_bytes)
        else:
            self._samples.append((now_s, self.copied_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - WINDOW_S:
            del self._samples[0]

    def speed(self, now_s: float) -> CopySpeed:
        """Return the speed at `now_s`."""
        return copy_speed(self._samples, total_bytes=self.total_bytes, now_s=now_s)
