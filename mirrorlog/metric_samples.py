"""What roles hand to the exporter of metrics: definitions, samples and histograms (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple, TypeAlias

UNITS: Final = ("seconds", "bytes")
"""The base units of metrics."""


class MetricKind(StrEnum):
    """The types of Prometheus that are used."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class ExportingRole(StrEnum):
    """Who exports a metric."""

    EVERY = "every role"
    SITE = "site"
    NODE = "node"
    HOST = "host"
    ARCHIVE = "archive"
    DASHBOARD = "dashboard"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDefinition:
    """One entry of the list.

    meaning: a sentence for people. is_problem: it is 0 while all is well.
    """

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    role: ExportingRole
    meaning: str
    is_problem: bool = False

    @property
    def unit(self) -> str:
        """The base unit that the name ends with; empty for a number of things or a flag."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in UNITS else ""


class HistogramValue(NamedTuple):
    """The state of a histogram.

    bounds: the upper bounds of its buckets, ascending, without infinity.
    counts: how many observations lie in each bucket, and above the last bound; one more than
    `bounds`, not cumulative. total: the sum of all observations.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound as text, number of observations at or below it), as Prometheus."""
        texts = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(texts, accumulate(self.counts), strict=True))


class MetricSample(NamedTuple):
    """A value of a metric. labels: in the order of the definition."""

    metric: MetricDefinition
    value: float | HistogramValue
    labels: tuple[str, ...] = ()


MetricSamples: TypeAlias = Iterable[MetricSample]

DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class DurationHistogram:
    """Counts durations in buckets.

    One thread at a time may call observe(). Any thread may call value().
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(DURATION_BOUNDS_S) + 1)
        self._total_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(DURATION_BOUNDS_S, duration_s)] += 1
        self._total_s += duration_s

    def value(self) -> HistogramValue:
        """Return what was counted so far."""
        return HistogramValue(DURATION_BOUNDS_S, tuple(self._counts), self._total_s)


def state_samples(
    metric: MetricDefinition, state: str, states: Iterable[str], labels: tuple[str, ...] = ()
) -> Iterable[MetricSample]:
    """Yield 1 for `state` and 0 for all other `states`. The state is the last label."""
    return (
        MetricSample(metric, float(possible == state), (*labels, possible)) for possible in states
    )
