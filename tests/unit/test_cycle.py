"""What a site does next (invariants 6, 7, 8), one line a case."""

from __future__ import annotations

import pytest
from notation import GENERATION, OTHER_GENERATION, record, volume

from mirrorlog.consumers.cycle import Begin, Prove, Rest, Restore, Step, View, next_step
from mirrorlog.consumers.secondary_state import SecondaryState
from mirrorlog.progress import Rung
from mirrorlog.tracking_log import SessionHead, VolumeHead, VolumeLog

# kept: - or applied/suspect_after/cycle_through/rung, '.' for none; g: other generation
# log: records as span=blocks; W watermark, E end asked after the last read, A acknowledged by the session, X it is closed
CASES = """
-               zeros       | W9                                   | begin -1
-               zeros       | -1..4=1 W9                           | begin -1
-               data        | W9                                   | all through 9: nothing is known
-               data        |                                      | rest WAITING
4/././changed               | W9                                   | rest CONSISTENT
4/././changed               | 4..9=1,2 W9                          | changed through 9 blocks 1,2 suspect 4
4/././changed               | 4..7=1 7..9=2 W9                     | changed through 9 blocks 1,2 suspect 4
4/././changed               | 4..9=1 W3                            | rest STOPPED
4/././changed               |                                      | rest STOPPED
-1/././changed              |                                      | rest CONSISTENT
4/././changed               | 5..9=1 W9                            | all through 9: the log has a hole: positions 5 to 5
4/././changed               | 4..6=1 7..9=1 W9                     | all through 9: the log has a hole: positions 7 to 7
4/2/./changed               | 3..4=1 4..9=2 W9 E8 A8               | changed through 9 blocks 2 suspect 4
g4/././changed              | 4..9=1 W9                            | all through 9: the generation changed
4/2/./changed               | 2..4=1 W9                            | rest SETTLING
4/2/./changed               | 2..4=1 W9 E8 A7                      | rest SETTLING
4/2/./changed               | 2..4=1 W9 E8 A8                      | prove 9
4/2/./changed               | 2..4=1 W6 E8 A8                      | rest SETTLING
4/2/./changed               | 2..4=1 W9 E8 A2 X                    | prove 9
4/2/./changed               | 2..4=1 4..9=2 W9 E8 A8               | prove 4
4/2/./changed               | 2..4=1 4..9=1 W9 E8 A8               | changed through 9 blocks 1 suspect 4
4/2/./changed               | 2..4=1 4..9=2 W9 E8 A7               | changed through 9 blocks 2 suspect 2
4/2/./changed               | 2..4=1 4..9=2 W9                     | changed through 9 blocks 2 suspect 2
4/4/./allocated             | 4..9=2 W9                            | rest SETTLING
4/4/./allocated             | 4..9=2 W9 E8 A8                      | changed through 9 blocks 2 suspect 4
4/4/./allocated             | W9 E8 A8                             | prove 9
4/4/9/changed               | 4..9=2 W9                            | changed through 9 blocks 2 suspect 4
4/2/9/changed               | 2..4=1 4..9=2 W9 E8 A8               | changed through 9 blocks 2 suspect 2
4/4/9/changed               | 4..7=2 W7                            | rest STOPPED
4/4/9/changed               | 4..9=2 9..12=3 W12                   | changed through 12 blocks 2,3 suspect 4
././9/allocated             | -1..9=2 W9                           | all through 9: the initial copy wasn't finished
"""


def kept_from(text: str) -> SecondaryState | None:
    if text == "-":
        return None
    applied, suspect, cycle, rung = text.lstrip("g").split("/")
    return SecondaryState(
        volume="v",
        generation=OTHER_GENERATION if text.startswith("g") else GENERATION,
        applied_position=None if applied == "." else int(applied),
        suspect_after=None if suspect == "." else int(suspect),
        cycle_through=None if cycle == "." else int(cycle),
        rung=rung,
    )


def view_from(text: str, zeroed: bool) -> View:
    log, watermark, end, acknowledged, closed = VolumeLog(), None, None, -1, -1
    for word in text.split():
        if "=" in word:
            span, blocks = word.split("=")
            log.add(record(span, blocks.replace(",", " ")))
        elif word == "X":
            closed = 100
        else:
            number = int(word[1:])
            watermark, end, acknowledged = {
                "W": (number, end, acknowledged),
                "E": (watermark, number, acknowledged),
                "A": (watermark, end, number),
            }[word[0]]
    log.add_head(VolumeHead("v", GENERATION, 0, (SessionHead("s", "h", 5, 5, closed, acknowledged),)))
    return View(volume(), log, watermark, end, zeroed)


def show(step: Step) -> str:
    if isinstance(step, Begin):
        return f"begin {step.state.applied_position}"
    if isinstance(step, Prove):
        assert step.state.applied_position == step.state.consistent_position
        return f"prove {step.state.consistent_position}"
    if isinstance(step, Rest):
        return f"rest {step.state.value}"
    assert step.running.consistent_position is step.done.consistent_position is None
    assert step.running.cycle_through == step.done.applied_position
    if step.rung is Rung.CHANGED:
        blocks = ",".join(map(str, step.blocks or []))
        return f"changed through {step.done.applied_position} blocks {blocks} suspect {step.done.suspect_after}"
    return f"all through {step.done.applied_position}: {step.reason}"


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_next_step(case: str) -> None:
    given, log, expected = (part.strip() for part in case.split("|"))
    text, _, secondary = given.partition(" ")
    step = next_step(kept_from(text), view_from(log, secondary.strip() == "zeros"))
    assert show(step).startswith(expected)


def test_a_running_cycle_keeps_the_applied_position_until_it_is_done() -> None:
    step = next_step(kept_from("4/././changed"), view_from("4..9=1 W9", False))
    assert isinstance(step, Restore)
    assert (step.running.applied_position, step.running.cycle_through) == (4, 9)
    assert (step.done.applied_position, step.done.cycle_through) == (9, None)
