"""Sorted arrays of blocks pack to the same bytes as bitmaps."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorlog.domain.bitmaps import BlockSet, pack, touched
from mirrorlog.domain.block_arrays import blocks_of, pack_blocks
from mirrorlog.domain.extents import Extent, ExtentColumns

BLOCK = 4096
NEAR = st.integers(0, 1 << 19)
FAR = st.integers(0, (1 << 40) - 1)
EXTENTS = st.lists(
    st.tuples(st.one_of(NEAR, NEAR.map(lambda n: n * BLOCK), FAR), st.integers(0, 40 * BLOCK)),
    max_size=60,
)


def columns(extents: list[tuple[int, int]]) -> ExtentColumns:
    return ExtentColumns.of([Extent(offset, length) for offset, length in extents])


@given(EXTENTS)
@example([])
@example([(0, 0)])
@example([((1 << 32) * BLOCK - 1, 2)])
@example([(BLOCK * 65535, 2 * BLOCK)])
@example([(BLOCK * block, 1) for block in range(0, 12000, 2)])
@example([(0, 40_000 * BLOCK), (40_000 * BLOCK, 40_000 * BLOCK)])
def test_the_bytes_are_those_of_the_bitmap(extents: list[tuple[int, int]]) -> None:
    given_columns = columns(extents)
    expected = touched(given_columns, BLOCK)
    blocks = blocks_of(given_columns, BLOCK)
    assert blocks is not None
    assert blocks.tolist() == list(expected)
    assert pack_blocks(blocks) == pack(expected)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_density_packs_alike(count: int, spread: int, seed: int) -> None:
    blocks = np.unique(
        np.random.default_rng(seed).integers(0, count * spread, count).astype(np.uint32)
    )
    assert pack_blocks(blocks) == pack(BlockSet(blocks.tolist()))


def test_too_many_blocks_give_no_array() -> None:
    assert blocks_of(columns([(0, (1 << 24) * BLOCK)]), BLOCK) is None


@given(
    st.lists(st.integers(0, 70_000) | st.integers(0, (1 << 34) - 1), min_size=1, max_size=60),
    st.sampled_from([(BLOCK, BLOCK), (1, BLOCK), (1, BLOCK + 1), (0, BLOCK)]),
    st.sampled_from([0, 0, 1]),
    st.data(),
)
@example([0, 1 << 32], (1, BLOCK), 0, None)
def test_extents_of_a_block_each_are_those_blocks(
    numbers: list[int], length: tuple[int, int], shift: int, data: st.DataObject | None
) -> None:
    """Nearly all, that is: each kind of an extent that isn't is among them."""
    lengths = [length[0] if data is None else data.draw(st.sampled_from(length)) for _ in numbers]
    extents = [(number * BLOCK, bytes_) for number, bytes_ in zip(numbers, lengths, strict=True)]
    extents[-1] = (extents[-1][0] + shift, extents[-1][1])
    expected = touched(columns(extents), BLOCK)
    blocks = blocks_of(columns(extents), BLOCK)
    assert blocks is not None
    assert blocks.tolist() == list(expected)
    assert pack_blocks(blocks) == pack(expected)
