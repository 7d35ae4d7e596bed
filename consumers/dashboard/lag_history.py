"""The lag of each secondary over the last hour and the last day, in memory of fixed size.

A value takes two bytes (_encode), a secondary FINE.samples + COARSE.samples values: 1,056 bytes.
10,000 volumes at two sites take 21 MB, at five sites 53 MB. What was before the start of the
process isn't known: Prometheus keeps it, if it is asked to (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import log2
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.status.replicas import LagBounds

SecondaryKey: TypeAlias = tuple[str, str]
"""A volume and a site."""

_UNKNOWN: Final = 0
_NOTHING: Final = 1
"""The code of no lag. Codes above it are milliseconds on a logarithmic scale."""
_STEPS_PER_OCTAVE: Final = 512
_AT_LEAST: Final = 1 << 15
"""The bit of a lag that is known to be at least so long."""
_FIRST_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class RingShape:
    """A ring of samples. step_s: the time between two of them."""

    step_s: int
    samples: int


FINE: Final = RingShape(15, 240)
COARSE: Final = RingShape(300, 288)


class LagHistory:
    """The samples of all secondaries. Nothing in it is thread-safe.

    The coarse ring holds the longest lag of each of its steps.
    """

    def __init__(self) -> None:
        self._rows: dict[SecondaryKey, int] = {}
        self._free: list[int] = []
        self._rings: Final = (_Ring(FINE), _Ring(COARSE))

    def add(
        self,
        lags: Mapping[SecondaryKey, LagBounds],
        at_us: int,
        new_volumes: Collection[str] = (),
    ) -> None:
        """Take the lags of all secondaries at a time. Secondaries that are no more are dropped.

        new_volumes: others had their names before; the samples of these are dropped, too.
        """
        dropped = [key for key in self._rows if key not in lags or key[0] in new_volumes]
        for key in dropped:
            row = self._rows.pop(key)
            self._free.append(row)
            for ring in self._rings:
                ring.forget(row)
        for key in lags:
            if key not in self._rows:
                self._rows[key] = self._free.pop() if self._free else len(self._rows)
        rows = len(self._rows) + len(self._free)
        codes = np.zeros(rows, np.uint16)
        codes[[self._rows[key] for key in lags]] = [_encode(lag) for lag in lags.values()]
        for ring in self._rings:
            ring.add(codes, at_us // 1_000_000)

    @property
    def size_bytes(self) -> int:
        """The memory of the samples."""
        return sum(ring.size_bytes for ring in self._rings)

    def of(self, key: SecondaryKey) -> dict[str, Any]:
        """Return the samples of a secondary, as JSON: `hour` and `day`."""
        row = self._rows.get(key)
        hour, day = (ring.of(row) for ring in self._rings)
        return {"hour": hour, "day": day}


class _Ring:
    """A ring of samples of all secondaries: one row each, one column for each step of time."""

    def __init__(self, shape: RingShape) -> None:
        self._shape: Final = shape
        self._codes: npt.NDArray[np.uint16] = np.zeros((0, shape.samples), np.uint16)
        self._last_step: int | None = None

    @property
    def size_bytes(self) -> int:
        return self._codes.nbytes

    def add(self, codes: npt.NDArray[np.uint16], at_s: int) -> None:
        """Take a code for each row. Steps that were passed over stay unknown."""
        shape, step = self._shape, at_s // self._shape.step_s
        if len(codes) > len(self._codes):
            rows = max(len(codes), _FIRST_ROWS, len(self._codes) * 5 // 4)
            grown = np.zeros((rows, shape.samples), np.uint16)
            grown[: len(self._codes)] = self._codes
            self._codes = grown
        last = step if self._last_step is None else self._last_step
        step = max(step, last)  # a clock that was set back adds to the last step
        for passed in range(max(last + 1, step - shape.samples + 1), step + 1):
            self._codes[:, passed % shape.samples] = _UNKNOWN
        self._last_step = step
        column = self._codes[: len(codes), step % shape.samples]
        column[:] = _longer(column, codes)

    def forget(self, row: int) -> None:
        """Make the row unknown."""
        if row < len(self._codes):
            self._codes[row] = _UNKNOWN

    def of(self, row: int | None) -> dict[str, Any]:
        """Return the samples of a row, the oldest first. None in them: unknown.

        at_least: the indexes of samples that are lower bounds.
        """
        shape, last = self._shape, self._last_step
        if row is None or last is None:
            return {"step_s": shape.step_s, "last_at_us": None, "lag_s": [], "at_least": []}
        order = [step % shape.samples for step in range(last + 1, last + 1 + shape.samples)]
        codes = self._codes[row, order].tolist()
        return {
            "step_s": shape.step_s,
            "last_at_us": last * shape.step_s * 1_000_000,
            "lag_s": [_decode(code) for code in codes],
            "at_least": [index for index, code in enumerate(codes) if code & _AT_LEAST],
        }


def _longer(one: npt.NDArray[np.uint16], other: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Return the codes of the longer lags. An unknown one counts as the shortest."""
    mask = np.uint16(_AT_LEAST - 1)
    longer: npt.NDArray[np.uint16] = np.where((one & mask) > (other & mask), one, other)
    return longer


def _encode(lag: LagBounds) -> int:
    """Return the code of a lag. An upper bound says nothing of how it went: it is unknown."""
    seconds = lag.lag_s if lag.lag_s is not None else lag.at_least_s
    if seconds is None:
        return _UNKNOWN
    flag = 0 if lag.lag_s is not None else _AT_LEAST
    octaves = log2(1.0 + max(seconds, 0.0) * 1000.0)
    return flag | min(_NOTHING + round(octaves * _STEPS_PER_OCTAVE), _AT_LEAST - 1)


def _decode(code: int) -> float | None:
    """Return the seconds of a code, within 0.07 % and half a millisecond; None: unknown."""
    code &= _AT_LEAST - 1
    if code == _UNKNOWN:
        return None
    milliseconds = 2.0 ** ((code - _NOTHING) / _STEPS_PER_OCTAVE) - 1.0
    return float(f"{milliseconds / 1000.0:.4g}")
