"""Partitions on which a worker is stuck. The patience is four seconds.

A look is `FETCH HANDED_ON RECORDED COMMITTED`; `-` is nothing handed on. There is one a second.
"""

from __future__ import annotations

import pytest

from mirrorlog.streams.faust_worker.partition_watch import Look, PartitionView, PartitionWatch

PATIENCE_S = 4.0


def view(text: str) -> PartitionView:
    fetch, handed_on, recorded, committed = text.split()
    return PartitionView(
        fetch, None if handed_on == "-" else int(handed_on), int(recorded), int(committed)
    )


def look_at(texts: list[str]) -> list[Look]:
    watch = PartitionWatch(PATIENCE_S)
    return [watch.look(0, view(text), now_s=float(at_s)) for at_s, text in enumerate(texts)]


@pytest.mark.parametrize(
    "looks",
    [
        [f"{number} - 7 7" for number in range(20)],  # idle
        [f"{number} - 0 0" for number in range(20)],  # without a command ever
        # The broker answers a fetch every three seconds.
        [f"{number // 3} - 7 7" for number in range(20)],
        # A backlog: nothing is fetched while the log takes what is there.
        [f"a 99 {number // 3} {number // 3}" for number in range(20)],
        # The first command after a long time.
        [*(f"{number} - 7 7" for number in range(20)), "a 7 7 7", "b 7 8 7", "c 7 8 8"],
        # Positions without a command, as transactions leave them, are never recorded.
        [f"{number} 7 8 8" for number in range(20)],
    ],
)
def test_a_partition_that_moves_or_has_nothing_to_do_is_not_stuck(looks: list[str]) -> None:
    assert [look.stuck for look in look_at(looks)] == [None] * len(looks)


@pytest.mark.parametrize(
    ("looks", "stuck"),
    [
        (["a - 7 7"] * 5, "no fetch of its commands has been answered for 4 s"),
        (
            [f"{number} 9 7 7" for number in range(5)],
            "the command at position 7 is fetched, and the log doesn't hold it after 4 s",
        ),
        (["a 9 7 7"] * 5, "the command at position 7 is fetched, and the log doesn't hold it"),
        (
            [f"{number} {number} {number + 1} 3" for number in range(3, 12)],
            "the log holds more commands than those before position 3, and no offset has been",
        ),
    ],
)
def test_a_partition_that_does_not_move_is_stuck_after_the_patience(
    looks: list[str], stuck: str
) -> None:
    *before, last = look_at(looks)
    assert (last.stuck or "").startswith(stuck)
    assert [look.stuck for look in before[:4]] == [None] * 4


def test_what_nobody_looked_at_for_a_while_is_not_known() -> None:
    watch = PartitionWatch(PATIENCE_S)
    watch.look(0, view("a - 7 7"), now_s=0)
    assert watch.look(0, view("a - 7 7"), now_s=100) == Look(None, is_well=False)
    watch.clear()
    assert watch.look(0, view("a - 7 7"), now_s=101) == Look(None, is_well=False)


def test_a_partition_is_well_again_when_every_step_moves_or_has_nothing_to_do() -> None:
    looks = look_at([*["a 9 7 7"] * 5, "a 9 8 7", "b 9 10 8", "b 9 10 10", "c 9 10 10"])
    assert [look.stuck is None for look in looks] == [True] * 4 + [False] + [True] * 4
    assert [look.is_well for look in looks[5:]] == [False, True, False, True]
