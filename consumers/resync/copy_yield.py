"""How fast a copy may read so that it yields to the primary's own load (pure).

The site knows of that load by the time that its own reads of the primary take. When the hosts, or
other readers, keep the primary busy, a read waits longer there than it does at a quiet time. So the
rate follows the delay, as LEDBAT's does on a network (RFC 6817): it grows while reads are about as
fast as they were at the quietest, and shrinks when they wait for as long again, or for 5 ms. The
copy's own reads delay each other, too: it doesn't fill the primary's queue in any case.

Reads of different sizes take different times, so each is held against others of its size class,
[2^n, 2^(n+1)) bytes. What counts is the median between two decisions: one slow read is no load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final, TypeAlias

FIRST_BYTES_S: Final = 8 << 20
"""The rate of a copy that has seen nothing yet."""
LEAST_BYTES_S: Final = 1 << 20
"""A copy goes on at this rate under any load, so that it comes to its end."""
MOST_BYTES_S: Final = 1 << 40
TARGET_S: Final = 0.005
"""A read may wait for so long beyond the quietest, or as long again as that took."""
DECIDE_S: Final = 0.25
_MIN_READS: Final = 3
"""A decision stands on so many reads, unless they are further apart than a decision."""
_MAX_READS: Final = 64
"""So many reads of a size class count in a decision, so that a decision's work is bounded."""
_GAIN: Final = 0.25
_LEAST_FACTOR, _MOST_FACTOR = 0.5, 1.25
"""The rate changes by no more than these between two decisions."""
_KEPT_MINUTES: Final = 10
"""The quietest time is looked for in so many minutes: storage may become slower for good."""

_Minutes: TypeAlias = Mapping[int, float]
"""By minute of the clock, the least median latency of a size class in it, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldState:
    """What is known of the primary's load.

    rate_bytes_s: that is allowed now. decided_at_s: when it was set last; None before a read.
    read_bytes, reads: since then; reads holds the latencies in seconds, by size class.
    least: the quietest times, by size class.
    """

    rate_bytes_s: float = FIRST_BYTES_S
    decided_at_s: float | None = None
    read_bytes: int = 0
    reads: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    least: Mapping[int, _Minutes] = field(default_factory=dict)


def after_read(state: YieldState, *, size_bytes: int, latency_s: float, now_s: float) -> YieldState:
    """Return the state after a read of the primary of `size_bytes` bytes took `latency_s`.

    now_s: of the monotonic clock, which ascends from call to call.
    """
    size_class = max(1, size_bytes).bit_length()
    latencies = state.reads.get(size_class, ())
    if len(latencies) < _MAX_READS:
        latencies = (*latencies, latency_s)
    state = replace(
        state,
        decided_at_s=now_s if state.decided_at_s is None else state.decided_at_s,
        read_bytes=state.read_bytes + size_bytes,
        reads={**state.reads, size_class: latencies},
    )
    assert state.decided_at_s is not None
    elapsed_s = now_s - state.decided_at_s
    if elapsed_s < DECIDE_S or sum(map(len, state.reads.values())) < _MIN_READS:
        return state
    return _decided(state, elapsed_s, now_s)


def _decided(state: YieldState, elapsed_s: float, now_s: float) -> YieldState:
    """Return the state with a new rate, by the reads of the last `elapsed_s` seconds."""
    minute = int(now_s // 60)
    medians = {size_class: median(latencies) for size_class, latencies in state.reads.items()}
    least: dict[int, _Minutes] = {
        size_class: {at: kept for at, kept in minutes.items() if at > minute - _KEPT_MINUTES}
        for size_class, minutes in state.least.items()
    }
    delays: list[float] = []
    for size_class, latency_s in medians.items():
        minutes = dict(least.get(size_class, {}))
        minutes[minute] = min(latency_s, minutes.get(minute, latency_s))
        least[size_class] = minutes
        quietest_s = min(minutes.values())
        delay = (latency_s - quietest_s) / max(TARGET_S, quietest_s)
        delays += [delay] * len(state.reads[size_class])
    factor = min(max(1 + _GAIN * (1 - median(delays)), _LEAST_FACTOR), _MOST_FACTOR)
    if factor > 1 and state.read_bytes < state.rate_bytes_s * elapsed_s / 2:
        factor = 1.0  # the rate isn't what holds the copy back, so nothing shows how much more fits
    rate = min(max(state.rate_bytes_s * factor, LEAST_BYTES_S), MOST_BYTES_S)
    return YieldState(rate_bytes_s=rate, decided_at_s=now_s, least=least)
