"""How a part that runs until it is stopped hears of it."""

from __future__ import annotations

import signal
from collections.abc import Callable


def stop_flag() -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT came since. A flag and no exception: one could leave a write between two of its steps."""
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return lambda: came
