"""Many sets as one: the same blocks whichever way they go in."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.changed import fold
from mirrorlog.domain.bitmaps import BitMap64


@given(
    st.lists(st.sets(st.integers(0, 2**40), max_size=8), max_size=20),
    st.integers(0, 8),
    st.integers(0, 12),
)
def test_a_union_holds_the_blocks_of_all_and_changes_none(
    sets: list[set[int]], small: int, pile: int
) -> None:
    given_sets = [BitMap64(each) for each in sets]
    with patch.object(fold, "_SMALL_SET", small), patch.object(fold, "_PILE_AT_MOST", pile):
        union = fold.Union()
        for each in given_sets:
            union.add(each)
        assert set(union.result()) == set[int]().union(*sets)
        assert set(union.result()) == set[int]().union(*sets)
    assert [set(each) for each in given_sets] == sets
