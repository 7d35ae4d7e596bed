"""What a site publishes of each of its secondaries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SiteState(StrEnum):
    """States of one secondary; consumers/cycle.py holds the rules between them."""

    WAITING = "WAITING"  # the log says nothing about the volume yet
    SYNCING = "SYNCING"  # a resync runs: the secondary is inconsistent
    SETTLING = (
        "SETTLING"  # applied, but blocks were read from a moving primary: not yet proved consistent
    )
    BEHIND = "BEHIND"  # consistent at an older position, and the log names newer changes
    CONSISTENT = "CONSISTENT"  # equals the primary as of the applied position, and the log names nothing newer
    STOPPED = "STOPPED"  # an error keeps it where it is; `reason` says which
    RETIRED = "RETIRED"  # so is the volume: the secondary stays as it was
    UNKNOWN = "UNKNOWN"  # what an older reader sees of a state that it doesn't know


class Rung(StrEnum):
    """How a resync chose its blocks: each next one is taken where the one before can't be trusted (invariant 7)."""

    CHANGED = "changed"
    ALLOCATED = "allocated"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class SiteProgress:
    """One secondary, now. `watermark` is what the site had read of the log when it reported."""

    site: str
    volume: str
    generation: str
    state: SiteState
    rung: Rung | None
    applied_position: int | None
    consistent_position: int | None
    watermark: int | None
    behind_blocks: int
    behind_bytes: int
    lag_s: float
    blocks_copied: int
    bytes_copied: int
    at_us: int
    reason: str | None = None
