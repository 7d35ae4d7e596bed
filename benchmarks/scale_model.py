"""The model of growth: what a resource costs at a size that doesn't fit on this machine.

A resource grows along one axis as `base + slope * shape(x)`. The shape is known from how the system
works, and the two coefficients are fitted to measured points. The fit is by least squares of the
relative differences, because sizes span several powers of ten. No coefficient is negative: nothing
gets cheaper as it grows.

A model is checked before it is believed. `check` fits it to all points but the largest, and
compares what it predicts there with what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

_CHUNK_BYTES: Final = 65_536 * 4096
"""What one container of a Roaring bitmap covers, in blocks of 4 KiB."""
RECORD_WRITES: Final = 2_500
"""The random writes of the record whose shape is `containers`."""


class Point(NamedTuple):
    """A measured point: the size on the axis, and what the resource took there."""

    x: float
    y: float


Shape: TypeAlias = Callable[[float], float]


def linear(x: float) -> float:
    """Return x: a resource that grows with the axis."""
    return x


def containers(size_bytes: float) -> float:
    """Return the expected containers a write, of RECORD_WRITES random writes to that many bytes.

    Beside two bytes for each block, a bitmap pays for each container that has a block.
    """
    all_containers = max(size_bytes / _CHUNK_BYTES, 1.0)
    touched = all_containers * -math.expm1(-RECORD_WRITES / all_containers)
    return touched / RECORD_WRITES


SHAPES: Final[Mapping[str, Shape]] = {"linear": linear, "containers": containers}


@dataclass(frozen=True, slots=True)
class Model:
    """A resource at size x: base + slope * SHAPES[shape](x)."""

    shape: str
    base: float
    slope: float

    def at(self, x: float) -> float:
        """Return what the resource takes at x."""
        return self.base + self.slope * SHAPES[self.shape](x)

    def reaches(self, limit: float, *, up_to: float) -> float | None:
        """Return the smallest x at which the resource takes `limit`; None if none up to `up_to`."""
        if self.at(up_to) < limit:
            return None
        low, high = 0.0, up_to
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle) < limit else (low, middle)
        return high


@dataclass(frozen=True, slots=True)
class Check:
    """A prediction for the largest point, by a model that was fitted without it."""

    point: Point
    predicted: float

    @property
    def error(self) -> float:
        """Return by how much the prediction is too high, as a fraction of what was measured."""
        return self.predicted / self.point.y - 1


def fit(points: Sequence[Point], shape: str) -> Model:
    """Return the model that is nearest to the points. ValueError for fewer than two sizes.

    points: with positive `y`.
    """
    if len({point.x for point in points}) < 2:
        raise ValueError("a model needs points at two sizes")
    shaped = [(SHAPES[shape](point.x), point.y) for point in points]
    weights = [1 / y**2 for _, y in shaped]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, shaped, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, shaped, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, shaped, strict=True))
    together = sum(
        w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, shaped, strict=True)
    )
    slope = max(together / spread, 0.0) if spread else 0.0
    base = mean_y - slope * mean_x
    if base < 0:
        square = sum(w * x * x for w, (x, _) in zip(weights, shaped, strict=True))
        product = sum(w * x * y for w, (x, y) in zip(weights, shaped, strict=True))
        return Model(shape, 0.0, product / square)
    return Model(shape, base, slope)


def check(points: Sequence[Point], shape: str) -> Check:
    """Return what the other points predict for the largest one. ValueError as in fit()."""
    *others, largest = sorted(points)
    return Check(largest, fit(others, shape).at(largest.x))
