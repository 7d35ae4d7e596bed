"""Which cycles are staged, when what is staged is applied, and which run in place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, record, volume

from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle, Resync
from mirrorlog.consumers.resync.staging_step import (
    ApplyStaged,
    InPlace,
    StageBlocks,
    Staged,
    StagingStep,
    next_staging_step,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import ForkHead, SessionHead, VolumeHead
from mirrorlog.tracking_log.site_log import SiteLog

VOLUME = volume()
BLOCK_BYTES = VOLUME.block_size + 20
SAVED = SecondaryState(
    "v", GENERATION, applied_position=4, consistent_position=4, rung=Rung.CHANGED
)
STAGED = Staged(
    VOLUME,
    SAVED,
    replace(SAVED, applied_position=9, consistent_position=None, suspect_after=4),
    written_bytes=5 * BLOCK_BYTES,
)
# records as span=blocks; W the watermark, E the read end, A acknowledged by the session; F: a fork
# M: the bound in blocks
FIRST = """
4..9=1,2 W9                    | stage new 1,2 through 9
4..9=1,2 W9 M2                 | stage new 1,2 through 9
4..9=1,2 W9 M1                 | in place 1,2
4..9=1,2 W9 F                  | in place 1,2
5..9=1,2 W9                    | all
W9                             | idle CONSISTENT
4..9=1 W3                      | idle STOPPED
"""
FOLLOWING = """
4..9=1,2 W9                    | idle CONSISTENT
4..9=1,2 9..12=2 W12           | idle CONSISTENT
4..9=1,2 W12 E11 A10           | idle CONSISTENT
4..9=1,2 W12 E11 A11           | apply 12
4..9=1,2 9..12=3 W12 E11 A11   | apply 9
4..9=1,2 9..12=2 W12 E11 A11   | stage more 2 through 12
4..9=1,2 9..12=2,3 W12 E11 A11 | stage more 2,3 through 12
4..9=1,2 9..12=2 W12 E11 A11 M3 | in place 1,2
4..9=1,2 9..12=2 W12 E11 A11 M6 | stage more 2 through 12
4..9=1,2 9..12=2 W12 E11 A11 M5 | stage new 1,2 through 12
4..9=1-4 9..12=1-4 W12 E11 A11 M6 | in place 1,2,3,4
4..9=1-4 9..12=1-4 W12 E11 A11 M8 | stage new 1,2,3,4 through 12
4..9=1,2 9..12=2 W12 E11 A11 F | in place 1,2
4..9=1,2 10..12=2 W12 E11 A11  | all
4..9=1,2 W3                    | idle STOPPED
"""


def step_of(saved: SecondaryState | None, staged: Staged | None, text: str) -> StagingStep:
    log, forks = VolumeLog(), {}
    numbers: dict[str, int | None] = {"W": None, "E": None, "A": -1, "M": 1000}
    for word in text.split():
        if "=" in word:
            span, blocks = word.split("=")
            log.add(record(span, blocks.replace(",", " ")))
        elif word == "F":
            forks["a"] = ForkHead(9, 9)
        else:
            numbers[word[0]] = int(word[1:])
    session = SessionHead(
        "s", "h", opened_position=5, last_position=5, acknowledged_position=numbers["A"] or -1
    )
    log.add_head(VolumeHead("v", GENERATION, through=0, sessions=(session,), forks=forks))
    seen = CycleInput(
        VOLUME, SiteLog(log, VolumeLog(), "a"), numbers["W"], numbers["E"], secondary_zeroed=False
    )
    return next_staging_step(saved, staged, seen, max_bytes=(numbers["M"] or 0) * BLOCK_BYTES)


def show(step: StagingStep) -> str:
    if isinstance(step, Idle):
        return f"idle {step.state.value}"
    if isinstance(step, ApplyStaged):
        assert step.state.consistent_position == step.state.applied_position
        return f"apply {step.state.consistent_position}"
    if isinstance(step, InPlace):
        assert "in place" in step.reason
        return f"in place {','.join(map(str, step.step.blocks or []))}"
    if isinstance(step, StageBlocks):
        blocks = ",".join(map(str, step.step.blocks or []))
        kind = "new" if step.is_new else "more"
        return f"stage {kind} {blocks} through {step.step.done.applied_position}"
    assert isinstance(step, Resync)
    return "all" if step.blocks is None else "changed"


@pytest.mark.parametrize("case", FIRST.strip().splitlines())
def test_the_first_step_of_a_consistent_secondary(case: str) -> None:
    text, expected = (part.strip() for part in case.split("|"))
    assert show(step_of(SAVED, None, text)) == expected


@pytest.mark.parametrize("case", FOLLOWING.strip().splitlines())
def test_the_step_after_blocks_were_staged(case: str) -> None:
    text, expected = (part.strip() for part in case.split("|"))
    assert show(step_of(SAVED, STAGED, text)) == expected


@pytest.mark.parametrize(
    "staged",
    [
        replace(STAGED, volume=replace(VOLUME, size_bytes=VOLUME.size_bytes * 2)),
        replace(STAGED, saved=replace(SAVED, updated_at_us=1)),
    ],
)
def test_a_journal_of_another_state_or_description_is_begun_anew(staged: Staged) -> None:
    text = "4..9=1,2 W12 E11 A11"
    assert show(step_of(SAVED, staged, text)) == "stage new 1,2 through 12"


@pytest.mark.parametrize(
    "saved",
    [
        replace(SAVED, consistent_position=None, suspect_after=2),
        replace(SAVED, consistent_position=None, cycle_through=9),
        replace(SAVED, consistent_position=3),
    ],
)
def test_a_secondary_without_a_position_to_keep_runs_in_place(saved: SecondaryState) -> None:
    assert show(step_of(saved, None, "4..9=1,2 W9")) == "changed"
