"""The commit gate: what it allows to commit (invariant 2)."""

from __future__ import annotations

from mirrorlog.streams.fold.commit_gate import CommitGate


def test_the_committable_offset_never_goes_back() -> None:
    gate = CommitGate("t")
    gate.assign(0, position=5)
    assert gate.expected_position(0) == 5
    gate.mark_durable(0, through=9)
    assert gate.committable_offset(0) == gate.expected_position(0) == 10
    gate.mark_durable(0, through=8)  # a replayed batch
    assert gate.committable_offset(0) == 10


def test_a_partition_that_went_away_is_not_committed_by_a_late_flush() -> None:
    gate = CommitGate("t")
    gate.assign(0, position=5)
    gate.revoke([0])
    gate.mark_durable(0, through=9)
    assert gate.committable_offset(0) is None
    assert not gate.is_assigned(0)
