"""How fast a copy may read so that it yields to the primary's own load (pure).

The site knows of that load by the time that its own reads of the primary take. When the hosts, or
other readers, keep the primary busy, a read waits longer there than it does at a quiet time. So the
rate follows the delay, as LEDBAT's does on a network (RFC 6817): it grows while reads are about as
fast as they were at the quietest, and shrinks when they wait for as long again, or for 5 ms. The
copy's own reads delay each other, too: it doesn't fill the primary's queue in any case. A copy that
begins doubles its rate until reads wait, as the slow start of TCP does (RFC 5681).

A read may be one range, or many that are read at once: the time of all together counts. Reads of
different sizes take different times, so each is held against others of its class: [2^n, 2^(n+1))
bytes in [2^m, 2^(m+1)) ranges. What counts is the lower quartile between two decisions. A primary
under load lets all reads wait, and a site whose own processor is busy delays some of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median, quantiles
from typing import Final, NamedTuple, TypeAlias

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
"""So many reads of a class count in a decision, so that a decision's work is bounded."""
_GAIN: Final = 0.25
_LEAST_FACTOR, _MOST_FACTOR = 0.5, 1.25
"""The rate changes by no more than these between two decisions."""
_DRAIN_FACTOR: Final = 0.7
"""A decision leaves this part of what was read in the time before it."""
_START_FACTOR: Final = 2.0
_START_ENDS: Final = 0.5
"""The rate is doubled until reads wait for this part of what they may wait."""
_KEPT_MINUTES: Final = 10
"""The quietest time is looked for in so many minutes: storage may become slower for good."""

_Minutes: TypeAlias = Mapping[int, float]
"""By minute of the clock, the quietest latency of a class of reads in it, in seconds."""
_ReadClass: TypeAlias = tuple[int, int]
"""Of the reads that are held against each other: n + 1 and m + 1 of the text above."""


class PrimaryRead(NamedTuple):
    """A read of the primary that has ended.

    ranges: that were read at once. latency_s: until all of them were read. began_s: when it began,
    by the monotonic clock.
    """

    size_bytes: int
    ranges: int
    latency_s: float
    began_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldState:
    """What is known of the primary's load.

    rate_bytes_s: that is allowed now. decided_at_s: when it was set last; None before a read.
    read_bytes, reads: since then; reads holds the latencies in seconds, by class.
        Those of a read that began before the last decision don't count: they show what the rate
        before it did.
    least: the quietest times, by class.
    is_starting: no read has waited yet.
    """

    rate_bytes_s: float = FIRST_BYTES_S
    decided_at_s: float | None = None
    read_bytes: int = 0
    reads: Mapping[_ReadClass, tuple[float, ...]] = field(default_factory=dict)
    least: Mapping[_ReadClass, _Minutes] = field(default_factory=dict)
    is_starting: bool = True


def after_read(state: YieldState, read: PrimaryRead, *, now_s: float) -> YieldState:
    """Return the state after a read of the primary.

    now_s: of the monotonic clock, which ascends from call to call.
    """
    read_class = max(1, read.size_bytes).bit_length(), max(1, read.ranges).bit_length()
    latencies = state.reads.get(read_class, ())
    is_new = state.decided_at_s is None or read.began_s >= state.decided_at_s
    if is_new and len(latencies) < _MAX_READS:
        latencies = (*latencies, read.latency_s)
    state = replace(
        state,
        decided_at_s=now_s if state.decided_at_s is None else state.decided_at_s,
        read_bytes=state.read_bytes + read.size_bytes,
        reads={**state.reads, read_class: latencies} if latencies else state.reads,
    )
    assert state.decided_at_s is not None
    elapsed_s = now_s - state.decided_at_s
    if elapsed_s < DECIDE_S or sum(map(len, state.reads.values())) < _MIN_READS:
        return state
    return _decided(state, elapsed_s, now_s)


def _decided(state: YieldState, elapsed_s: float, now_s: float) -> YieldState:
    """Return the state with a new rate, by the reads of the last `elapsed_s` seconds."""
    minute = int(now_s // 60)
    quick = {read_class: _quartile(latencies) for read_class, latencies in state.reads.items()}
    least: dict[_ReadClass, _Minutes] = {
        read_class: {at: kept for at, kept in minutes.items() if at > minute - _KEPT_MINUTES}
        for read_class, minutes in state.least.items()
    }
    delays: list[float] = []
    for read_class, latency_s in quick.items():
        minutes = dict(least.get(read_class, {}))
        minutes[minute] = min(latency_s, minutes.get(minute, latency_s))
        least[read_class] = minutes
        quietest_s = min(minutes.values())
        delay = (latency_s - quietest_s) / max(TARGET_S, quietest_s)
        delays += [delay] * len(state.reads[read_class])
    delay = median(delays)
    is_starting = state.is_starting and delay < _START_ENDS
    factor = min(max(1 + _GAIN * (1 - delay), _LEAST_FACTOR), _MOST_FACTOR)
    if is_starting:
        factor = _START_FACTOR
    if factor > 1 and state.read_bytes < state.rate_bytes_s * elapsed_s / 2:
        factor = 1.0  # the rate isn't what holds the copy back, so nothing shows how much more fits
    rate = state.rate_bytes_s * factor
    if factor < 1:  # what is read drains the queue, unless others fill it, too
        read_bytes_s = state.read_bytes / elapsed_s
        rate = max(rate, min(state.rate_bytes_s, _DRAIN_FACTOR * read_bytes_s))
    rate = min(max(rate, LEAST_BYTES_S), MOST_BYTES_S)
    return YieldState(rate_bytes_s=rate, decided_at_s=now_s, least=least, is_starting=is_starting)


def _quartile(latencies_s: Sequence[float]) -> float:
    """Return the time within which a quarter of the reads ended."""
    if len(latencies_s) == 1:
        return latencies_s[0]
    return quantiles(latencies_s, n=4, method="inclusive")[0]
