"""Log records: the blocks of a volume that changed between two positions.

A record says which blocks changed in `(after, through]`. It is a pure function of the commands in
that range: every worker that folds the same range writes the same bytes under the same key. So
replays, duplicates, and a worker that returns late, change nothing (invariant 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from mirrorlog.domain.bitmaps import BitMap64


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LogRecord:
    """The blocks of `volume` that changed in `(after, through]`, or one part of them.

    tier: an index into TIERS (tiers.py).
    changed: every block with a byte that was written, zeroed or discarded.
    zeroed: the blocks that a zero or discard covered whole; a subset of `changed`.
    first_at_us, last_at_us, commands, writes, bytes_written, hosts: for people. Positions, not
    times, order records (invariant 10).
    part, parts: this is part `part`, counted from 0, of a record that was split by block range.
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
