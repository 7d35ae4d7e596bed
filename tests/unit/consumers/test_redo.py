"""A sealed journal is applied to its own secondary alone, and only where it begins."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from mirrorlog.consumers.journal.journal_format import JournalHeader, SealedJournal
from mirrorlog.consumers.journal.redo import refuse_redo
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.domain.site_progress import Rung

IDS = [str(UUID(int=number)) for number in range(5)]
HEADER = JournalHeader(
    site="a",
    volume="v",
    generation=IDS[1],
    history_id=IDS[2],
    secondary_id=IDS[3],
    epoch=7,
    after=41,
    description=b"",
)
JOURNAL = SealedJournal(UUID(int=9), HEADER, 99, b"", ())
IDENTITY = SecondaryIdentity(secondary_id=IDS[3], epoch=7, size_bytes=4096, lasting="inode 1")
IDLE = SecondaryState(
    "v",
    IDS[1],
    applied_position=41,
    consistent_position=41,
    rung=Rung.CHANGED,
    identity=IDENTITY,
    history_id=IDS[2],
)
RUNNING = replace(
    IDLE, consistent_position=None, cycle_through=99, identity=replace(IDENTITY, epoch=8)
)


@pytest.mark.parametrize(
    "saved", [IDLE, RUNNING, replace(RUNNING, cycle_through=41)], ids=["idle", "running", "resumed"]
)
def test_what_a_crash_leaves_is_redone(saved: SecondaryState) -> None:
    assert refuse_redo(JOURNAL, saved) is None


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        (None, "nothing is known"),
        (replace(IDLE, identity=None), "nothing is known"),
        (replace(IDLE, volume="w"), "volume v"),
        (replace(IDLE, identity=replace(IDENTITY, secondary_id=IDS[4])), "secondary 0000"),
        (replace(IDLE, identity=replace(IDENTITY, epoch=6)), "elsewhere"),
        (replace(IDLE, generation=IDS[4]), "generation"),
        (replace(IDLE, history_id=IDS[4]), "history"),
        (replace(IDLE, history_id=None), "history"),
        (replace(IDLE, applied_position=99, consistent_position=99), "elsewhere"),
        (replace(IDLE, applied_position=None, consistent_position=None), "elsewhere"),
        (replace(RUNNING, cycle_through=98), "another cycle"),
        (replace(RUNNING, cycle_through=100), "another cycle"),
        (replace(RUNNING, suspect_after=41), "aren't proved"),
        (replace(IDLE, consistent_position=None), "another cycle"),
        (replace(IDLE, consistent_position=None, suspect_after=41), "aren't proved"),
    ],
)
def test_any_other_state_is_about_other_writes(saved: SecondaryState | None, reason: str) -> None:
    assert reason in (refuse_redo(JOURNAL, saved) or "")
