"""Recorded writes: a tracking command from a recording, in which each write has its own time.

A host's command has the time of its first and of its last write, and the broker's time tells when
it came. The writes of a recording were made long before they came, so only their own times say
when (docs/decisions/own-times.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import ExtentColumns

I64: Final = np.dtype("<i8")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RecordedWrites(TrackingCommand):
    """A command of the kind WRITES. It has a contract of its own (recorded_writes.vN.avsc).

    So the commands of hosts carry no column of times, and aren't slower to read.

    times_us: i64, one for each extent, microseconds since 1970 by the recording's clock.
    first_at_us, last_at_us: the least and the greatest of them.
    """

    times_us: npt.NDArray[np.int64]

    def made_in(self, *, after_us: int | None, through_us: int | None) -> RecordedWrites | None:
        """Return the command with only those writes that were made in `(after_us, through_us]`.

        None is no limit. Return None if no write was made then.
        """
        chosen = np.ones(len(self.times_us), np.bool_)
        if after_us is not None:
            chosen &= self.times_us > after_us
        if through_us is not None:
            chosen &= self.times_us <= through_us
        if chosen.all():
            return self
        if not chosen.any():
            return None
        extents, times_us = self.extents, self.times_us[chosen]
        return replace(
            self,
            extents=ExtentColumns(
                extents.offsets[chosen],
                extents.lengths[chosen],
                None if extents.kinds is None else extents.kinds[chosen],
            ),
            first_at_us=int(times_us.min()),
            last_at_us=int(times_us.max()),
            times_us=times_us,
        )


def unpack_times(times: bytes, extents: ExtentColumns) -> npt.NDArray[np.int64]:
    """Return the column of times. Raise ValueError unless there is one for each extent, and one."""
    if len(times) != 8 * len(extents) or not times:
        raise ValueError(f"columns disagree: {len(times)} bytes of times, {len(extents)} extents")
    return np.frombuffer(times, I64)
