"""What the decision about a secondary's next step (cycle.py) takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.site_log import SiteLog


@dataclass(frozen=True, slots=True)
class CycleInput:
    """The facts that the site knows of one volume, beside the saved state.

    watermark: the log is completely read through it; None before the first watermark.
    read_end: the end of the commands topic. The site asked for it after its start and after the
        last read and write of its last cycle; None until it has asked.
    beats: by session, the position that the session knew as acknowledged at its last heartbeat in
        the volume's partition.
    secondary_zeroed: the whole secondary is known to read as zeros.
    unknown_reason: why nothing is known of the secondary's contents, if the site knows that.
    awaited_position: of a command that the log should hold by now and doesn't; None if all is well.
    history_id, anchor: of the watermark: the history in which it was taken, and the digest of the
        command there (hexadecimal); None if they aren't known.
    is_other_history: the log is of another history than the volume's description, and no watermark
        counts.
    hole_may_close: the log is read from a mirror, and a hole in it may be filled by rows that the
        mirror hasn't brought yet.
    unanswered_reason: why the source of the mirror doesn't answer; None if it does.
    snapshot: the snapshot of the primary that the site holds. It was taken when no cycle ran, and
        nothing was read from the primary itself since then.
    """

    volume: Volume
    log: SiteLog
    watermark: int | None
    read_end: int | None
    secondary_zeroed: bool
    beats: Mapping[str, int] = field(default_factory=dict)
    unknown_reason: str | None = None
    awaited_position: int | None = None
    history_id: str | None = None
    anchor: str | None = None
    is_other_history: bool = False
    hole_may_close: bool = False
    unanswered_reason: str | None = None
    snapshot: SnapshotExport | None = None


@dataclass(frozen=True, slots=True)
class SkipInitialCopy:
    """Both sides are zeros at the origin: save `state`, and copy nothing."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class Resync:
    """Copy blocks by `rung`.

    blocks: the blocks to copy by the rung CHANGED; None: all that the primary holds.
    running: the state to save before the first block is written.
    done: the state to save when all blocks are durable.
    reason: why a rung above CHANGED is taken; None by the rung CHANGED.
    unproved: None if the primary itself is read. Otherwise the blocks are read from the snapshot,
        and this is the state to save instead of `done` if the snapshot broke.
    """

    rung: Rung
    running: SecondaryState
    done: SecondaryState
    blocks: BlockSet | None
    reason: str | None
    unproved: SecondaryState | None = None

    @property
    def reads_snapshot(self) -> bool:
        """Whether the blocks are read from a snapshot of the primary."""
        return self.unproved is not None


@dataclass(frozen=True, slots=True)
class MarkConsistent:
    """The secondary is proved equal to the primary as of a position: save `state`."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class AdvancePosition:
    """Save `state`: nothing is missing up to a position, but a host doesn't know all outcomes."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class ContinueLog:
    """Another copy was promoted, and this one parted from it at a known position: save `state`."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class Idle:
    """Do nothing until the log grows. The site reports `state`.

    advice: what an operator can do; None if nobody knows.
    is_wanted: an operator asked for it, so it is no failure.
    awaits_source: a mirror is to bring more, which the watermark may not show.
    """

    state: SiteState
    reason: str | None = None
    advice: str | None = None
    is_wanted: bool = False
    awaits_source: bool = False


CycleStep: TypeAlias = (
    SkipInitialCopy | Resync | MarkConsistent | AdvancePosition | ContinueLog | Idle
)
