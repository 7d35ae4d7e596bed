"""BrokerTimes: the broker's clock, as the node knows it without asking (invariant 15).

The age of records decides what is deleted, and no machine's clock but the broker's is trusted with
that. Each batch of commands brings the time at which the broker appended its last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mirrorlog.ports.clock import Clock


class AppendedThrough(NamedTuple):
    """The commands through position `through` were appended at `at_us` or before."""

    through: int
    at_us: int


class BrokerTimes:
    """What batches said of the broker's time, for all partitions of this worker.

    clock: only its monotonic time is read.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_us: int | None = None
        self._last: dict[int, AppendedThrough] = {}

    def note(self, partition: int, *, through: int, at_us: int) -> None:
        """Note that the command at `through` was appended at `at_us`, by the broker's clock."""
        known = self._last.get(partition, AppendedThrough(through, at_us))
        # After a change of leaders the time may go back a little.
        self._last[partition] = AppendedThrough(
            max(known.through, through), max(known.at_us, at_us)
        )
        ahead_us = at_us - self._monotonic_us()
        self._ahead_us = ahead_us if self._ahead_us is None else max(self._ahead_us, ahead_us)

    def last(self, partition: int) -> AppendedThrough | None:
        """Return the last note of a partition, None if there is none."""
        return self._last.get(partition)

    def now_us(self) -> int | None:
        """Return a time that the broker's clock has reached by now; None before the first note.

        It lags by how long the newest command took to get here. So records appear younger than they
        are, never older.
        """
        return None if self._ahead_us is None else self._monotonic_us() + self._ahead_us

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget the notes of partitions that another worker has now."""
        for partition in partitions:
            self._last.pop(partition, None)

    def _monotonic_us(self) -> int:
        return int(self._clock.monotonic_s() * 1e6)
