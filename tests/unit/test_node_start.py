"""Before the node starts: nothing that it hasn't recorded may be gone (invariants 2 and 7)."""

from __future__ import annotations

import pytest

from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.streams.commit_gate import CommitGate
from mirrorlog.streams.worker import Start, plan_starts

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
    start = Start(int(first), int(end), None if committed == "-" else int(committed))
    if expected == "nothing" or expected.isdigit():
        assert plan_starts("t", {0: start}) == ({} if expected == "nothing" else {0: int(expected)})
        return
    with pytest.raises(OutOfRetention, match=expected):
        plan_starts("t", {0: start})


def test_the_gate_opens_in_order_and_never_closes() -> None:
    gate = CommitGate("t")
    gate.begin(0, 5)
    gate.check(0, 5)
    gate.durable(0, 9)
    assert gate.committable(0) == 10
    gate.check(0, 7)  # a replay
    gate.durable(0, 8)
    assert gate.committable(0) == 10
    with pytest.raises(KafkaFailed, match="positions 10 to 11 never reached the log"):
        gate.check(0, 12)


def test_a_partition_that_went_away_is_not_committed_by_a_late_flush() -> None:
    gate = CommitGate("t")
    gate.begin(0, 5)
    gate.forget([0])
    gate.durable(0, 9)
    assert gate.committable(0) is None
    assert not gate.knows(0)
