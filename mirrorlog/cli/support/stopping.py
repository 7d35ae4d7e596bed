"""The signals that tell a running command to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable


def stop_flag() -> Callable[[], bool]:
    """Catch SIGTERM and SIGINT from now on; return a function that says whether one came.

    It is a flag and not an exception, because an exception could leave a write between two of
    its steps.
    """
    came = False

    def note_signal(*_: object) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGTERM, note_signal)
    signal.signal(signal.SIGINT, note_signal)
    return lambda: came
