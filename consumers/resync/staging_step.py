"""The next step of a secondary whose cycles are staged in a journal, as a pure function.

The rules are those of cycle.py, asked about the state that the secondary and its journal have
together:

    CONSISTENT, no journal
        the log names blocks, and they fit    StageBlocks       --> CONSISTENT, with a journal
        they don't fit, or hosts fork         Resync in place   --> SYNCING --> SETTLING
    CONSISTENT, with a journal
        it was read from a snapshot           ApplyStaged       --> SYNCING --> CONSISTENT
        the log reached a snapshot            StageBlocks       --> CONSISTENT, with a journal
        the log isn't settled                 Idle              --> CONSISTENT
        settled, no staged block changed      ApplyStaged       --> SYNCING --> CONSISTENT
        settled, staged blocks changed        StageBlocks       --> CONSISTENT, with a journal
            and there is no room left         StageBlocks anew, or Resync in place

A journal is dropped when the saved state, or the volume's description, isn't the one with which it
was begun. A secondary that isn't consistent has no position to keep: its cycles run in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from mirrorlog.consumers.journal.journal_format import RANGE_BYTES
from mirrorlog.consumers.resync.cycle import is_settled, next_step
from mirrorlog.consumers.resync.cycle_steps import (
    CycleInput,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.units import format_size

FORKED: Final = (
    "the cycle is applied in place: hosts write to this secondary themselves (--fork), so a "
    "journal can't keep it at a position"
)


@dataclass(frozen=True, slots=True)
class Staged:
    """What a journal holds that isn't sealed.

    volume, saved: as they were when the journal was begun. state: of the secondary and the journal
    together. written_bytes: the size of the journal.
    """

    volume: Volume
    saved: SecondaryState
    state: SecondaryState
    written_bytes: int


@dataclass(frozen=True, slots=True)
class StageBlocks:
    """Read the blocks of `step` into the journal. The secondary isn't touched.

    is_new: a journal is begun; one that is there is dropped.
    """

    step: Resync
    is_new: bool


@dataclass(frozen=True, slots=True)
class ApplyStaged:
    """What is staged is proved: seal the journal, apply it, and save `state`."""

    state: SecondaryState


@dataclass(frozen=True, slots=True)
class InPlace:
    """Run `step` although the site has journals.

    reason: why it isn't staged.
    """

    step: Resync
    reason: str


StagingStep: TypeAlias = CycleStep | StageBlocks | ApplyStaged | InPlace


def next_staging_step(
    saved: SecondaryState | None,
    staged: Staged | None,
    cycle_input: CycleInput,
    *,
    max_bytes: int,
) -> StagingStep:
    """Return the next step of a secondary.

    staged: what its journal holds; None if it has none. It stays only if the step is Idle,
    ApplyStaged, or StageBlocks with is_new False. max_bytes: the bound of a journal.
    """
    step = next_step(saved, cycle_input)
    if (
        not isinstance(step, Resync)
        or step.blocks is None
        or step.rung is not Rung.CHANGED
        or saved is None
        or saved.consistent_position is None
        or saved.consistent_position != saved.applied_position
    ):
        return step
    if cycle_input.log.fork is not None:
        return InPlace(step, FORKED)
    volume = cycle_input.volume
    size_bytes = staging_bytes(volume, step.blocks)
    if staged is not None and (staged.volume, staged.saved) == (volume, saved):
        following = _following_step(staged, cycle_input, max_bytes)
        if following is not None:
            return following
        if size_bytes <= max_bytes // 2:
            return StageBlocks(step, is_new=True)
    elif size_bytes <= max_bytes:
        return StageBlocks(step, is_new=True)
    return InPlace(
        step,
        f"the cycle is applied in place: a journal holds {format_size(max_bytes)} "
        f"(site_journal_bytes), and the cycle takes {format_size(size_bytes)}",
    )


def _following_step(staged: Staged, cycle_input: CycleInput, max_bytes: int) -> StagingStep | None:
    """Return the next step with what is staged; None if that is of no use any more."""
    watermark = cycle_input.watermark
    through = staged.state.applied_position
    if staged.state.consistent_position is not None:
        return ApplyStaged(staged.state)
    step = next_step(staged.state, cycle_input)
    if isinstance(step, MarkConsistent):
        return ApplyStaged(step.state)
    reads_snapshot = isinstance(step, Resync) and step.reads_snapshot
    if watermark is None or not (reads_snapshot or is_settled(cycle_input, watermark)):
        return Idle(
            SiteState.CONSISTENT,
            f"what changed through position {through} is staged in the journal, and waits for its "
            "proof",
        )
    if isinstance(step, Resync) and step.blocks is not None and step.rung is Rung.CHANGED:
        size_bytes = staging_bytes(cycle_input.volume, step.blocks)
        if staged.written_bytes + size_bytes <= max_bytes:
            return StageBlocks(step, is_new=False)
    return None


def staging_bytes(volume: Volume, blocks: BlockSet) -> int:
    """Return how many bytes of a journal these blocks take at most, but for its headers."""
    return len(blocks) * (volume.block_size + RANGE_BYTES)


def applying_state(saved: SecondaryState, through: int) -> SecondaryState:
    """Return the state to save before a journal is applied: its cycle runs (redo.py)."""
    return replace(saved, consistent_position=None, cycle_through=through, rung=Rung.CHANGED)
