"""Bitmaps of blocks against a plain model: sets of integers (invariant 4)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from notation import flipped

from mirrorlog.domain.bitmaps import (
    BlockSet,
    fingerprint,
    pack,
    runs,
    touched,
    union,
    unpack,
    zeroed,
)
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind

BLOCK, SIZE = 8, 1003
"""A small volume with a partial last block."""

EXTENTS = st.lists(
    st.integers(0, SIZE).flatmap(
        lambda offset: st.builds(
            Extent,
            st.just(offset),
            st.integers(0, SIZE - offset),
            st.sampled_from(list(ExtentKind)),
        )
    ),
    max_size=12,
)
BLOCKS = st.sets(st.integers(0, 1 << 40) | st.integers(0, 300), max_size=60)


@given(EXTENTS)
def test_a_block_is_touched_when_any_byte_of_it_is(extents: list[Extent]) -> None:
    expected = {byte // BLOCK for extent in extents for byte in range(extent.offset, extent.end)}
    assert set(touched(ExtentColumns.of(extents), BLOCK)) == expected


@given(EXTENTS)
def test_a_block_is_zeroed_when_one_zero_or_discard_covers_all_of_it(extents: list[Extent]) -> None:
    expected = {
        block
        for extent in extents
        if extent.kind is not ExtentKind.WRITE
        for block in range(-(-SIZE // BLOCK))
        if extent.offset <= block * BLOCK and min((block + 1) * BLOCK, SIZE) <= extent.end
    }
    blocks = zeroed(ExtentColumns.of(extents), block_size=BLOCK, size_bytes=SIZE)
    assert set(blocks) == expected
    assert blocks.issubset(touched(ExtentColumns.of(extents), BLOCK))


def test_long_extents_cost_no_more_than_short_ones() -> None:
    columns = ExtentColumns.of([Extent(0, 1 << 50), Extent((1 << 50) + 4096, 1)])
    blocks = touched(columns, 4096)
    assert len(blocks) == (1 << 38) + 1
    assert pack(blocks).size_bytes < 100 << 20


@given(st.lists(BLOCKS, max_size=5))
def test_union_changes_none_of_its_operands(sets: list[set[int]]) -> None:
    operands = [BlockSet(blocks) for blocks in sets]
    assert set(union(operands)) == set().union(*sets)
    assert [set(operand) for operand in operands] == sets


@given(BLOCKS)
def test_a_set_reads_back_from_its_bytes(blocks: set[int]) -> None:
    assert set(unpack(*pack(BlockSet(blocks)))) == blocks


@given(BLOCKS, st.none() | st.integers(1, 9))
def test_runs_yield_every_block_once_in_order_and_are_as_long_as_possible(
    blocks: set[int], max_blocks: int | None
) -> None:
    pieces = list(runs(BlockSet(blocks), max_blocks=max_blocks))
    assert [block for first, count in pieces for block in range(first, first + count)] == sorted(
        blocks
    )
    for (first, count), (following, _) in pairwise(pieces):
        assert first + count < following or count == max_blocks
    assert max_blocks is None or all(count <= max_blocks for _, count in pieces)


def test_a_run_may_cross_windows() -> None:
    blocks = BlockSet()
    blocks.add_range((1 << 20) - 3, (1 << 21) + 5)
    blocks.add(1 << 33)
    assert list(runs(blocks)) == [((1 << 20) - 3, (1 << 20) + 8), (1 << 33, 1)]


@given(st.sets(st.integers(0, 70_000), max_size=40), st.integers(0, 70_000), st.integers(0, 3000))
def test_a_fingerprint_depends_on_the_blocks_and_not_on_how_the_set_was_made(
    some: set[int], first: int, count: int
) -> None:
    ranged = BlockSet(some)
    ranged.add_range(first, first + count)
    listed = BlockSet([*some, *range(first, first + count)])
    assert fingerprint(ranged) == fingerprint(listed)
    assert fingerprint(ranged) != fingerprint(flipped(listed, first))
