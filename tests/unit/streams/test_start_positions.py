"""Before the node starts: nothing that it hasn't recorded may be gone (invariants 2 and 7)."""

from __future__ import annotations

import asyncio

import pytest

from mirrorlog.errors import OutOfRetention
from mirrorlog.streams.faust_worker.worker import PartitionBounds, plan_first_commits
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder

# oldest kept, end, committed | what is committed before the start, or why the node stops
STARTS = """
0  0  - | 0
5  9  - | 5
0  9  0 | nothing
5  9  5 | nothing
5  9  9 | nothing
5  9  4 | deleted before the node recorded them
0  3  4 | it was made anew
"""


@pytest.mark.parametrize("case", STARTS.strip().splitlines())
def test_starts(case: str) -> None:
    given, expected = (part.strip() for part in case.split("|"))
    first, end, committed = given.split()
    start = PartitionBounds(int(first), int(end), None if committed == "-" else int(committed))
    if expected == "nothing" or expected.isdigit():
        assert plan_first_commits("t", {0: start}) == (
            {} if expected == "nothing" else {0: int(expected)}
        )
        return
    with pytest.raises(OutOfRetention, match=expected):
        plan_first_commits("t", {0: start})


def test_the_gate_opens_in_order_and_never_closes() -> None:
    gate = CommitGate("t")
    gate.assign(0, 5)
    assert gate.expected_position(0) == 5
    gate.mark_durable(0, 9)
    assert gate.committable_offset(0) == gate.expected_position(0) == 10
    gate.mark_durable(0, 8)  # a replay
    assert gate.committable_offset(0) == 10


# committed | positions of a batch | asked about, as first..end | what is answered
FOLLOW = """
5 | 5 6 7     |      |
5 | 3 4 5     |      |
5 | 7 8       | 5..7 |
5 | 7 8       | 5..7 | were deleted
5 | 5 6 9     | 7..9 | were passed over
"""


@pytest.mark.parametrize("case", FOLLOW.strip().splitlines())
def test_a_jump_is_asked_about_before_anything_is_folded(case: str) -> None:
    committed, positions, asked, answer = (part.strip() for part in case.split("|"))
    questions = []

    def missed(partition: int, first: int, end: int) -> str | None:
        questions.append(f"{first}..{end}")
        return answer or None

    gate = CommitGate("t")
    gate.assign(0, int(committed))
    node = BatchFolder(None, gate, None, None, missed, None, 0, None)  # type: ignore[arg-type]
    check = node._check_follow(0, [int(each) for each in positions.split()])
    if answer:
        with pytest.raises(OutOfRetention, match=answer):
            asyncio.run(check)
    else:
        asyncio.run(check)
    assert questions == ([asked] if asked else [])


def test_a_partition_that_went_away_is_not_committed_by_a_late_flush() -> None:
    gate = CommitGate("t")
    gate.assign(0, 5)
    gate.revoke([0])
    gate.mark_durable(0, 9)
    assert gate.committable_offset(0) is None
    assert not gate.is_assigned(0)
