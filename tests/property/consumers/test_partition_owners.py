"""Each partition has one owner among the slots that are locked, and few move when one leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.workers.partition_owners import partition_owners

_COUNTS = st.integers(0, 70)
_SLOTS = st.sets(st.integers(0, 12), min_size=1)


@given(count=_COUNTS, slots=_SLOTS)
def test_every_partition_has_one_owner_and_the_parts_are_equal(count: int, slots: set[int]) -> None:
    owners = partition_owners(count, slots)
    assert len(owners) == count
    assert set(owners) <= slots
    counts = [owners.count(slot) for slot in slots]
    assert max(counts) - min(counts) <= 1


@given(count=_COUNTS, slots=_SLOTS)
def test_each_worker_computes_the_same(count: int, slots: set[int]) -> None:
    assert partition_owners(count, sorted(slots)) == partition_owners(
        count, sorted(slots, reverse=True)
    )


@given(count=_COUNTS, workers=st.integers(2, 12), data=st.data())
def test_only_the_partitions_of_a_worker_that_leaves_move(
    count: int, workers: int, data: st.DataObject
) -> None:
    before = partition_owners(count, range(workers))
    leaving = data.draw(st.integers(0, workers - 1))
    after = partition_owners(count, set(range(workers)) - {leaving})
    assert all(now == then for then, now in zip(before, after, strict=True) if then != leaving)


@given(count=_COUNTS, slots=st.sets(st.integers(0, 12), min_size=2), data=st.data())
def test_at_most_half_of_the_partitions_move_between_others(
    count: int, slots: set[int], data: st.DataObject
) -> None:
    before = partition_owners(count, slots)
    leaving = data.draw(st.sampled_from(sorted(slots)))
    after = partition_owners(count, slots - {leaving})
    moved = sum(now != then != leaving for then, now in zip(before, after, strict=True))
    assert moved <= (count + 1) // 2 + 1
