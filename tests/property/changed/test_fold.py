"""BlockUnion: the union of many sets is the same, whatever way their blocks take."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.changed import fold
from mirrorlog.domain.bitmaps import BlockSet


@given(
    st.lists(st.sets(st.integers(0, 2**40), max_size=8), max_size=20),
    st.integers(0, 8),
    st.integers(0, 12),
)
def test_a_union_holds_the_blocks_of_all_sets_and_changes_none(
    sets: list[set[int]], small_set_blocks: int, max_pending_blocks: int
) -> None:
    bitmaps = [BlockSet(blocks) for blocks in sets]
    with (
        patch.object(fold, "_SMALL_SET_BLOCKS", small_set_blocks),
        patch.object(fold, "_MAX_PENDING_BLOCKS", max_pending_blocks),
    ):
        union = fold.BlockUnion()
        for bitmap in bitmaps:
            union.add(bitmap)
        assert set(union.result()) == set[int]().union(*sets)
        assert set(union.result()) == set[int]().union(*sets)
    assert [set(bitmap) for bitmap in bitmaps] == sets
