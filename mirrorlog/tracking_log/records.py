"""Log records: which blocks of a volume changed between two positions.

A record says which blocks of one volume changed in `(after, through]`. It is a pure function of the commands in that
range: whoever folds the same range writes the same bytes under the same key, so replays, duplicates and a worker that
comes back late change nothing (invariant 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.bitmaps import BitMap64

TIERS: Final = ("second", "minute", "hour", "day")
"""Names of the tiers: flushes, and what they are rolled up to."""


@dataclass(frozen=True, slots=True, eq=False)
class LogRecord:
    """Blocks of `volume` changed in `(after, through]`; part `part` of `parts` where it was split by block range.

    changed holds every block of which a byte was written, zeroed or discarded; zeroed those that a zero or discard
    covered whole. Counts and times are for people; positions order (invariant 10).
    """

    volume: str
    generation: str
    tier: int
    after: int
    through: int
    block_size: int
    changed: BitMap64
    zeroed: BitMap64
    first_at_us: int
    last_at_us: int
    commands: int
    writes: int
    bytes_written: int
    hosts: tuple[str, ...]
    part: int = 0
    parts: int = 1
