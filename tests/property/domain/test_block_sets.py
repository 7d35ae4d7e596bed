"""A BlockSet equals a set of block numbers, however it was made, and costs what its runs cost."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.domain import block_sets
from mirrorlog.domain.bitmaps import BlockSet, fingerprint, pack, runs, touched, unpack
from mirrorlog.domain.block_sets import CHUNK_BLOCKS, BitMap64
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.errors import BadInput

UNIVERSE = 6 * CHUNK_BLOCKS
EDGE = st.integers(0, UNIVERSE) | st.integers(0, 6).map(lambda number: number * CHUNK_BLOCKS)
STEP = st.tuples(st.sampled_from("+-"), EDGE, EDGE)
STEPS = st.lists(STEP, max_size=8)
Model = npt.NDArray[np.bool_]


def made(steps: list[tuple[str, int, int]]) -> tuple[BlockSet, Model]:
    """Return a set made by adding and removing ranges, and what it holds."""
    blocks, model = BlockSet(), np.zeros(UNIVERSE, np.bool_)
    for sign, *edges in steps:
        first, end = sorted(edges)
        if sign == "+":
            blocks.add_range(first, end)
        else:
            blocks.remove_range(first, end)
        model[first:end] = sign == "+"
    return blocks, model


def of_numbers(numbers: npt.NDArray[np.int64]) -> BlockSet:
    """Return BlockSet(numbers): lists of a million numbers would take most of the time."""
    return BlockSet.of(BitMap64(array("Q", numbers.tobytes())))


def check(blocks: BlockSet, model: Model) -> None:
    """Assert that the set holds what the model holds, in every way to read it."""
    numbers = np.flatnonzero(model)
    assert (len(blocks), bool(blocks)) == (len(numbers), len(numbers) > 0)
    if len(numbers):
        assert (blocks.min(), blocks.max()) == (numbers[0], numbers[-1])
    edges = np.flatnonzero(np.diff(np.concatenate(([False], model, [False]))))
    starts, ends = edges[::2].tolist(), edges[1::2].tolist()
    assert [(first, first + count) for first, count in runs(blocks)] == list(
        zip(starts, ends, strict=True)
    )
    same = of_numbers(numbers)
    assert blocks == same
    assert fingerprint(blocks) == fingerprint(same)
    assert unpack(*pack(blocks)) == blocks == unpack(*pack(same))
    for block in (0, CHUNK_BLOCKS - 1, CHUNK_BLOCKS, UNIVERSE - 1):
        assert (block in blocks) is bool(model[block])


@given(STEPS)
def test_a_set_holds_what_was_added(steps: list[tuple[str, int, int]]) -> None:
    check(*made(steps))


@given(STEPS, STEPS, st.booleans())
def test_two_sets_combine(
    steps: list[tuple[str, int, int]], others: list[tuple[str, int, int]], settled: bool
) -> None:
    (one, model), (other, other_model) = made(steps), made(others)
    if settled:
        one = of_numbers(np.flatnonzero(model))
        other = unpack(*pack(other))
    check(one | other, model | other_model)
    check(one & other, model & other_model)
    check(one - other, model & ~other_model)
    assert one.issubset(other) is not bool((model & ~other_model).any())
    assert (one == other) is bool((model == other_model).all())
    kept = one.copy()
    one |= other
    check(one, model | other_model)
    check(kept, model)


@given(st.sets(st.integers(0, 200) | st.integers(0, 1 << 20)), STEPS)
def test_windows_of_any_width_give_the_same_runs(
    scattered: set[int], steps: list[tuple[str, int, int]]
) -> None:
    blocks, model = made(steps)
    expected = np.zeros((1 << 20) + 1, np.bool_)
    expected[:UNIVERSE] = model
    expected[list(scattered)] = True
    numbers = np.flatnonzero(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_sets, "_WINDOW_BLOCKS", 1 << 12)
        patch.setattr(block_sets, "_WINDOW_SPAN", 1 << 15)
        for blocks_read in (of_numbers(numbers), blocks | BlockSet(scattered)):
            read = list(runs(blocks_read))
            assert sum(count for _, count in read) == len(numbers)
            members = np.zeros_like(expected)
            for first, count in read:
                members[first : first + count] = True
            assert np.array_equal(members, expected)
            ends = [first + count for first, count in read]
            assert all(first > end for (first, _), end in zip(read[1:], ends, strict=False))


@pytest.mark.parametrize("blocks", [20_000, 3 << 20])
def test_a_sparse_set_is_read_in_pieces_by_what_it_holds(blocks: int) -> None:
    """A piece costs much more than a block, and 4 TiB have 1,024 windows of dense blocks."""
    numbers = np.arange(blocks, dtype=np.uint64) * np.uint64((1 << 30) // blocks)
    sparse = BlockSet.of(BitMap64(array("Q", numbers.tobytes())))
    pieces = list(sparse.run_arrays())
    assert sum(len(firsts) for firsts, _ in pieces) == blocks
    assert len(pieces) <= 2 * (blocks // (1 << 19) + 4)


def test_equal_sets_of_different_bytes_have_one_fingerprint() -> None:
    as_run, as_array = BlockSet.of_range(0, 3), BlockSet([0, 1, 2])
    assert pack(as_run) != pack(as_array)
    assert unpack(*pack(as_run)) == unpack(*pack(as_array))
    assert fingerprint(as_run) == fingerprint(as_array)


def test_the_whole_of_the_largest_volume_costs_one_run() -> None:
    whole = BlockSet.of_range(0, 1 << 54)
    written = BlockSet(range(0, 1 << 40, (1 << 30) + 7))
    assert (len(whole), pack(whole).size_bytes) == (1 << 54, 16)
    assert written.issubset(whole)
    assert not whole.issubset(written)
    assert whole & written == written
    assert whole | written == whole
    assert len(whole - written) == (1 << 54) - len(written)
    assert list(runs(whole)) == [(0, 1 << 54)]
    assert fingerprint(whole) != fingerprint(whole - written)


def test_extents_of_the_whole_volume_cost_one_run_however_many_they_are() -> None:
    size = (1 << 63) - 1
    extents = ExtentColumns.of([Extent(0, size)] * 60_000)
    assert list(runs(touched(extents, 4096))) == [(0, 1 << 51)]


@pytest.mark.parametrize("content", [b"x", bytes(8), b"\xff" * 16, b"\xff" * 24])
def test_bytes_that_are_no_runs_are_refused(content: bytes) -> None:
    with pytest.raises(BadInput):
        unpack(b"", content)


def test_a_set_of_the_first_version_is_read() -> None:
    bitmap = BlockSet.of_range(5, 4 * CHUNK_BLOCKS + 3)
    before = BitMap64(bitmap)
    before.run_optimize()
    assert unpack(bytes(before.serialize())) == bitmap
