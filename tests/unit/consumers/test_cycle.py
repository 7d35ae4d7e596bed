"""What a site does next (invariants 6, 7 and 8), one case on a line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, OTHER_GENERATION, record, volume

from mirrorlog.consumers.resync.cycle import next_step
from mirrorlog.consumers.resync.cycle_steps import (
    AdvancePosition,
    CycleInput,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
    SkipInitialCopy,
)
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import ForkHead, SessionHead, VolumeHead, left_out
from mirrorlog.tracking_log.site_log import SiteLog

# saved: - or applied/suspect_after/cycle_through/rung, '.' for None; g: another generation
# log: records as span=blocks; W the watermark, E the read_end, A acknowledged by the session, X the
# session is closed, L the head leaves sessions out, L3 those of them were closed that it left out
# through 3; `ahead`: a later head was read; `mirror`: a hole may close
CASES = """
-               zeros       | W9                                   | skip -1
-               zeros       | -1..4=1 W9                           | skip -1
-               data        | W9                                   | all through 9: nothing is known
-               data        |                                      | idle WAITING
4/././changed               | W9                                   | idle CONSISTENT
4/././changed               | 4..9=1,2 W9                          | changed through 9 blocks 1,2 suspect 4
4/././changed               | 4..7=1 7..9=2 W9                     | changed through 9 blocks 1,2 suspect 4
4/././changed               | 4..9=1 W3                            | idle STOPPED
4/././changed               |                                      | idle STOPPED
-1/././changed              |                                      | idle CONSISTENT
4/././changed               | 5..9=1 W9                            | all through 9: the log has a hole: positions 5 to 5
4/././changed               | 4..6=1 7..9=1 W9                     | all through 9: the log has a hole: positions 7 to 7
4/2/./changed               | 3..4=1 4..9=2 W9 E8 A8               | changed through 9 blocks 2 suspect 4
g4/././changed              | 4..9=1 W9                            | all through 9: the generation changed
4/2/./changed               | 2..4=1 W9                            | idle SETTLING
4/2/./changed               | 2..4=1 W9 E8 A7                      | idle SETTLING
4/2/./changed               | 2..4=1 W9 E8 A8                      | consistent 9
4/2/./changed               | 2..4=1 W6 E8 A8                      | idle SETTLING
4/2/./changed               | 2..4=1 W9 E8 A8 ahead                | idle SETTLING
4/././changed               | 5..9=1 W9 mirror                     | idle SETTLING
4/4/9/changed               | 5..9=1 W9 mirror                     | idle SYNCING
././4+7/allocated           | 5..9=2 W9 mirror                     | idle SYNCING
4/2/./changed               | 2..4=1 W9 E8 A8 L                    | idle SETTLING
4/2/./changed               | 2..4=1 W9 E8 A8 L3                   | consistent 9
4/4/./allocated             | W9 E8 A8 L                           | idle SETTLING
4/2/./changed               | 2..4=1 W9 E8 A2 X                    | consistent 9
4/2/./changed               | 2..4=1 4..9=2 W9 E8 A8               | consistent 4
4/2/./changed               | 2..4=1 4..9=1 W9 E8 A8               | changed through 9 blocks 1 suspect 4
4/2/./changed               | 2..4=1 4..9=2 W9 E8 A7               | changed through 9 blocks 2 suspect 2
4/2/./changed               | 2..4=1 4..9=2 W9                     | changed through 9 blocks 2 suspect 2
4/4/./allocated             | 4..9=2 W9                            | idle SETTLING
4/4/./allocated             | 4..9=2 W9 E8 A8                      | changed through 9 blocks 2 suspect 4
4/4/./allocated             | W9 E8 A8                             | consistent 9
4/4/9/changed               | 4..9=2 W9                            | changed through 9 blocks 2 suspect 4
4/2/9/changed               | 2..4=1 4..9=2 W9 E8 A8               | changed through 9 blocks 2 suspect 2
4/4/9/changed               | 4..7=2 W7                            | idle STOPPED
4/4/9/changed               | 4..9=2 9..12=3 W12                   | changed through 12 blocks 2,3 suspect 4
././9/allocated             | -1..9=2 W9                           | all through 9: the initial copy wasn't finished
././4+7/allocated           | 4..9=2 W9                            | all through 4: the initial copy wasn't finished, and goes on at offset 7
././4+7/full                | W4                                   | all through 4: the initial copy wasn't finished, and goes on at offset 7
././4+7/allocated           | 5..9=2 W9                            | all through 9: the initial copy wasn't finished
././4+7/allocated           | W3                                   | all through 3: the initial copy wasn't finished
././4+7/allocated           |                                      | idle WAITING
g././4+7/allocated          | 4..9=2 W9                            | all through 9: the generation changed
"""

# With a fork. F: the missed log holds what is above that position; @ its records; O: an outcome is
# open. saved: +through is changed_through; in CASES cycle+bytes is copied_bytes
FORKED = """
4/././changed     | 4..9=1,2 F-1 W9 E8 A8                          | consistent 9
4/././changed     | 4..9=1,2 F-1 W9                                | advance 9
4/././changed     | 4..9=1,2 F-1 W9 E8 A8 O                        | advance 9
4/././changed     | F-1 W9 E8 A8                                   | idle CONSISTENT
4/././changed     | F-1 W9                                         | idle SETTLING
4/././changed     | F-1 W9 E8 A8 O                                 | idle SETTLING
4/././changed     | F-1 W9 E8 A8 O X                               | idle CONSISTENT
4/././changed     | 4..9=1,2 @4..9=2 F-1 W9                        | changed through 9 blocks 2 suspect 4
4/././changed     | 4..9=1,2 @-1..9=2,3 F-1 W9                     | changed through 9 blocks 2,3 suspect -1
4/././changed     | 4..6=1 6..9=2,3 @6..9=3 F6 W9                  | changed through 9 blocks 1,3 suspect 4
4/././changed     | 4..9=1,2 @4..6=2 @7..9=1 F-1 W9                | all through 9: the log has a hole: positions 7 to 7
4/././changed     | 4..9=1,2 F-1..8 W9                             | all through 9: the log has a hole: positions 5 to 8
4/././changed     | 4..6=1 7..9=1 F-1 W9                           | all through 9: the log has a hole: positions 7 to 7
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=1 F-1 W9 E8 A8           | consistent 9
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=1 F-1 W9 E8 A8 O         | idle SETTLING
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=1 F-1 W9 E8 A7           | idle SETTLING
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=2,3 F-1 W9               | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=2,3 F-1 W9 E8 A8         | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1-8 @2..4=2-8 4..9=2,3 F-1 W9 E8 A8       | changed through 9 blocks 2,3 suspect 4+9
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=2,3 @4..9=2,3 F-1 W9 E8 A8 | changed through 9 blocks 2,3 suspect 4
4/2/./changed     | 2..4=1,2 @2..4=2 4..9=1,3 @4..9=3 F-1 W9 E8 A8 | changed through 9 blocks 3 suspect 4
4/2+4/./changed   | 2..4=1,2 4..9=1,3 F-1 W9                       | changed through 9 blocks 1 suspect 2+4
4/2/./changed     | 3..4=1,2 @3..4=2 4..9=1,3 F-1 W9 E8 A8         | changed through 9 blocks 1,3 suspect 4+9
4/2/./changed     | @3..4=2 4..9=1,3 F-1..4 W9                     | changed through 9 blocks 1,3 suspect 2+9
4/4/./allocated   | 4..9=1,3 @4..9=3 F-1 W9                        | idle SETTLING
4/4/./allocated   | 4..9=1,3 @4..9=3 F-1 W9 E8 A8                  | changed through 9 blocks 1,3 suspect 4+9
4/4/9/changed     | 4..9=1,2 9..12=1,3 @4..9=2 F-1 W12             | changed through 12 blocks 2 suspect 4
4/2/9/changed     | 2..4=1,2 @2..4=2 4..9=2,3 F-1 W9 E8 A8         | changed through 9 blocks 2 suspect 2
"""

# The site holds a snapshot. S: its position; Sx: it isn't believed, because of what follows
SNAPSHOTS = """
4/2/./changed     | 2..4=1 4..9=2 W9 S9            | snapshot at 9 blocks 2 or unproved suspect 2
4/2/./changed     | 2..4=1 4..7=1,2 7..9=3 W9 S7   | snapshot at 7 blocks 1,2 or unproved suspect 2
4/2/./changed     | 2..4=1 4..9=1,2 W9 S7          | snapshot at 7 blocks 1,2 or unproved suspect 2
4/././changed     | 4..9=2 W9 S7                   | snapshot at 7 blocks 2 or unproved suspect 4
4/2/9/changed     | 4..9=2 W12 S12                 | snapshot at 12 blocks 2 or unproved suspect 2
4/2/./changed     | 2..4=1 4..9=2 W9 S12           | idle SETTLING
4/././changed     | 4..9=2 W9 S12                  | idle CONSISTENT
4/2/./changed     | 2..4=1 W9 S9                   | consistent 9
4/2/./changed     | 2..4=1 7..9=2 W9 S9            | all through 9: the log has a hole: positions 5 to 7
4/././changed     | W9 S9                          | idle CONSISTENT
4/2/./changed     | 2..4=1 4..9=2 W9 S3            | changed through 9 blocks 2 suspect 2
4/4/9/changed     | 4..9=2 W12 S7                  | changed through 12 blocks 2 suspect 4
4/4/./allocated   | 4..9=2 W9 S9                   | idle SETTLING
g4/2/./changed    | 4..9=2 W9 S9                   | all through 9: the generation changed
-                 | W9 S9                          | all through 9: nothing is known
4/2/./changed     | 2..4=1 4..9=2 W9 Sx9 generation | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1 4..9=2 W9 Sx9 history   | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1 4..9=2 W9 Sx9 session   | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1 4..9=2 W9 Sx9 shared    | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1 4..9=2 W9 S9 L          | changed through 9 blocks 2 suspect 2
4/2/./changed     | 2..4=1 4..9=2 F-1 W9 S9        | idle SETTLING
"""


def saved_from(text: str) -> SecondaryState | None:
    if text == "-":
        return None
    applied, suspect, cycle, rung = text.lstrip("g").split("/")
    suspect, _, changed_through = suspect.partition("+")
    cycle, _, copied = cycle.partition("+")
    return SecondaryState(
        volume="v",
        generation=OTHER_GENERATION if text.startswith("g") else GENERATION,
        applied_position=None if applied == "." else int(applied),
        copied_bytes=int(copied) if copied else None,
        suspect_after=None if suspect == "." else int(suspect),
        cycle_through=None if cycle == "." else int(cycle),
        rung=rung,
        changed_through=int(changed_through) if changed_through else None,
    )


def input_from(text: str, zeroed: bool) -> CycleInput:
    log, missed, forks, numbers, words = (
        VolumeLog(),
        VolumeLog(),
        {},
        {"W": None, "E": None, "A": -1},
        text.split(),
    )
    for word in words:
        if "=" in word:
            span, blocks = word.lstrip("@").split("=")
            (missed if word[0] == "@" else log).add(record(span, blocks.replace(",", " ")))
        elif word[0] == "F":
            after, _, through = word[1:].partition("..")
            forks["a"] = ForkHead(int(after), int(through or after))
        elif word[0] in numbers:
            numbers[word[0]] = int(word[1:])
    closed, open_forks = 100 if "X" in words else -1, ("a",) if "O" in words else ()
    session = SessionHead(
        "s",
        "h",
        opened_position=5,
        last_position=5,
        closed_position=closed,
        acknowledged_position=numbers["A"] or -1,
        open_forks=open_forks,
    )
    sessions = [session]
    if "L" in words or "L3" in words:
        others = left_out([SessionHead("gone", "h", opened_position=1)], position=3)
        sessions.append(replace(others, closed_position=4 if "L3" in words else -1))
    log.add_head(VolumeHead("v", GENERATION, through=0, sessions=tuple(sessions), forks=forks))
    described = replace(volume(), shared="shared" in words)
    snapshot = None
    for word in words:
        if word[0] == "S":
            snapshot = SnapshotExport(
                volume="v",
                session="other" if "session" in words else "s",
                generation=OTHER_GENERATION if "generation" in words else GENERATION,
                history_id=GENERATION if "history" in words else None,
                position=int(word.lstrip("Sx")),
                number=0,
            )
    log.is_ahead = "ahead" in words
    site_log = SiteLog(log, missed, "a")
    watermark, read_end = numbers["W"], numbers["E"]
    cycle_input = CycleInput(described, site_log, watermark, read_end, zeroed, snapshot=snapshot)
    return replace(cycle_input, hole_may_close="mirror" in words)


def show(step: CycleStep) -> str:
    if isinstance(step, SkipInitialCopy):
        return f"skip {step.state.applied_position}"
    if isinstance(step, MarkConsistent):
        assert step.state.applied_position == step.state.consistent_position
        return f"consistent {step.state.consistent_position}"
    if isinstance(step, Idle):
        return f"idle {step.state.value}"
    if isinstance(step, AdvancePosition):
        return f"advance {step.state.applied_position}"
    assert step.running.consistent_position is None
    if step.unproved is not None:
        position = step.running.cycle_through
        assert step.done.consistent_position == step.done.applied_position == position
        assert (step.unproved.consistent_position, step.unproved.cycle_through) == (None, None)
        assert step.unproved.applied_position == position
        assert step.running.suspect_after == step.unproved.suspect_after
        assert step.done.suspect_after is step.done.cycle_through is None
        blocks = ",".join(map(str, step.blocks or []))
        suspect = step.unproved.suspect_after
        return f"snapshot at {position} blocks {blocks} or unproved suspect {suspect}"
    assert step.done.consistent_position is None
    assert step.running.cycle_through == step.done.applied_position
    if step.rung is Rung.CHANGED:
        blocks = ",".join(map(str, step.blocks or []))
        through = "" if step.done.changed_through is None else f"+{step.done.changed_through}"
        suspect = f"{step.done.suspect_after}{through}"
        return f"changed through {step.done.applied_position} blocks {blocks} suspect {suspect}"
    return f"all through {step.done.applied_position}: {step.reason}"


@pytest.mark.parametrize(
    "case", [case for case in (CASES + FORKED + SNAPSHOTS).splitlines() if case]
)
def test_next_step(case: str) -> None:
    given, log, expected = (part.strip() for part in case.split("|"))
    text, _, secondary = given.partition(" ")
    step = next_step(saved_from(text), input_from(log, secondary.strip() == "zeros"))
    assert show(step) == expected or (": " in expected and show(step).startswith(expected))


def test_a_site_says_that_it_waits_for_sessions_without_a_name() -> None:
    for saved in ("4/2/./changed", "4/4/./allocated"):
        step = next_step(saved_from(saved), input_from("2..4=1 W9 E8 A8 L", False))
        assert isinstance(step, Idle)
        assert "more open sessions than the log names" in (step.reason or "")
    step = next_step(saved_from("4/././changed"), input_from("W9 E8 A8 L", False))
    assert step == Idle(SiteState.CONSISTENT)


def test_a_running_cycle_keeps_the_applied_position_until_it_is_done() -> None:
    step = next_step(saved_from("4/././changed"), input_from("4..9=1 W9", False))
    assert isinstance(step, Resync)
    assert (step.running.applied_position, step.running.cycle_through) == (4, 9)
    assert (step.done.applied_position, step.done.cycle_through) == (9, None)
