"""A clock that stands still until a test moves it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ManualClock:
    """The port mirrorlog.ports.clock.Clock.

    now_s: the time, for both clocks; set it to move the clock.
    look_s: by how much each look at the monotonic time moves the clock.
    """

    now_s: float = 0.0
    look_s: float = 0.0

    def now_us(self) -> int:
        """Return the time in microseconds."""
        return int(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        """Move the clock by `look_s`, and return the time in seconds."""
        self.now_s += self.look_s
        return self.now_s
