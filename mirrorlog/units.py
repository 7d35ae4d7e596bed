"""Sizes, durations and counts as text: `4KiB`, `2h`, `1.5 GiB`, `1 point`."""

from __future__ import annotations

import re
from typing import Final

from mirrorlog.errors import BadUse

SIZE_UNITS: Final[dict[str, int]] = {
    "": 1,
    "B": 1,
    **{f"{prefix}iB": 1 << (10 * power) for power, prefix in enumerate("KMGTPE", start=1)},
    **{prefix: 1 << (10 * power) for power, prefix in enumerate("KMGTPE", start=1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGTPE", start=1)},
}
DURATION_UNITS_S: Final = {
    "": 1.0,
    "ms": 0.001,
    "s": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    **dict.fromkeys(("sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("day", "days"), 86400.0),
    **dict.fromkeys(("week", "weeks"), 604800.0),
}
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Return the bytes of a size: 4096 for `4KiB`.

    A number without a unit is bytes. `K` and `KiB` are 1024 bytes, `kB` is 1000. Raise BadUse if
    the text is no size.
    """
    number, unit = _split(text, kind="size", examples="4KiB, 64M or 1.5GiB")
    factor = SIZE_UNITS.get(unit) or SIZE_UNITS.get(unit.upper().replace("IB", "iB"))
    if factor is None:
        raise BadUse(
            f"'{text}' has an unknown unit of size", next="Write a size like 4KiB, 64M or 1.5GiB."
        )
    try:
        return round(float(number) * factor) if "." in number else int(number) * factor
    except (OverflowError, ValueError) as error:  # int() refuses thousands of digits
        raise BadUse(f"'{text[:60]}' is more than any size") from error


def parse_duration_s(text: str) -> float:
    """Return the seconds of a duration: 7200.0 for `2h`.

    A number without a unit is seconds. Raise BadUse if the text is no duration.
    """
    number, unit = _split(text, kind="duration", examples="500ms, 30s, 5min, 2h or 7d")
    factor = DURATION_UNITS_S.get(unit.lower())
    if factor is None:
        raise BadUse(
            f"'{text}' has an unknown unit of time",
            next="Write a duration like 500ms, 30s, 5min, 2h or 7d.",
        )
    return float(number) * factor


def _split(text: str, *, kind: str, examples: str) -> tuple[str, str]:
    """Return the number and the unit in `text`."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise BadUse(f"'{text[:60]}' isn't a {kind}", next=f"Write a {kind} like {examples}.")
    return match.group(1), match.group(2)


def format_size(size_bytes: float) -> str:
    """Return a size as people read it: `4.0 KiB` for 4096."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} PiB"


def format_duration(seconds: float) -> str:
    """Return a duration as people read it: `1.5 h` for 5400."""
    for unit, length_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length_s:
            return f"{seconds / length_s:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.1f} s".replace(".0 ", " ")


def format_count(count: int, noun: str) -> str:
    """Return a number of things in words: `1 point`, `2 points`. noun: in the singular."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def is_or_are(count: int) -> str:
    """Return the verb for a number of things."""
    return "is" if count == 1 else "are"
