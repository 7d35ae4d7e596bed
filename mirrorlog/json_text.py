"""JSON from files, sockets and processes, of which nothing is believed yet."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return the value that a text in JSON holds.

    Raise ValueError if it is none, also if it is nested too deeply: json raises a RecursionError
    for that, which no caller expects.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
