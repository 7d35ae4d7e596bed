"""Whether a quantity that is sampled over time stays flat, or grows as a leak does. Pure.

A leak is a slope, and noise hides it in single samples. So a slope is fitted that single samples
can't move: the median of the slopes of all pairs of samples (Theil 1950, Sen 1968). A quantity that
is flat for long and then rises is found by its high values, which are compared between thirds: by
the 90th percentile of each, so what lasts for a moment is no growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_HOUR_S = 3600.0
_HIGH = 0.9


@dataclass(frozen=True, slots=True)
class Limit:
    """How much a quantity may grow and still counts as flat. Everything is in its unit.

    per_hour, share_per_hour: the slope may be this, or this share of the median if that is more.
    step, share: the high of the last third may exceed that of the second third by this, or by
        this share of it if that is more.
    """

    per_hour: float
    share_per_hour: float
    step: float
    share: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one quantity.

    median, highest: of its samples. per_hour: the fitted slope. highs: the 90th percentile of each
        third, in order.
    """

    median: float
    highest: float
    per_hour: float
    highs: tuple[float, float, float]
    is_flat: bool


def slope_per_hour(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Return the median of the slopes of all pairs of samples, by the hour.

    times_s: the times in rising order, two at least. values: as many.
    """
    times: npt.NDArray[np.float64] = np.asarray(times_s, np.float64)
    of_values: npt.NDArray[np.float64] = np.asarray(values, np.float64)
    first, second = np.triu_indices(len(times), 1)
    slopes = (of_values[second] - of_values[first]) / (times[second] - times[first])
    return float(np.median(slopes)) * _HOUR_S


def judge(times_s: Sequence[float], values: Sequence[float], limit: Limit) -> Verdict:
    """Judge the samples of one quantity, from which the warm-up is gone.

    times_s, values: three samples at least, in rising order of time. Errors: ValueError for fewer.
    """
    if len(values) < 3:
        raise ValueError(f"{len(values)} samples are too few to judge")
    thirds = np.array_split(np.asarray(values, np.float64), 3)
    first, second, third = (float(np.quantile(part, _HIGH)) for part in thirds)
    median, per_hour = float(np.median(values)), slope_per_hour(times_s, values)
    is_flat = (
        per_hour <= max(limit.per_hour, limit.share_per_hour * median)
        and third - second <= max(limit.step, limit.share * second)
    )  # fmt: skip
    return Verdict(median, float(max(values)), per_hour, (first, second, third), is_flat)
