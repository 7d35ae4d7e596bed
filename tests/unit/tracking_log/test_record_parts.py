"""Records are cut at the same blocks whether they are held as bitmaps or as sorted arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from notation import record

from mirrorlog.codec.events import encode
from mirrorlog.domain.bitmaps import BlockSet, PackedBlocks, pack, union
from mirrorlog.domain.block_arrays import Blocks, pack_blocks
from mirrorlog.domain.block_sets import CHUNK_BITS
from mirrorlog.tracking_log.record_parts import pack_record, split_record

LIMITS_BYTES = (250, 1000, 5000, 900_000)


def scattered(random: Random) -> Blocks:
    """Return blocks in runs and alone, below 2^32 and above."""
    blocks: set[int] = set()
    for _ in range(random.randint(1, 30)):
        first = random.choice((0, (1 << 26) - 50, 1 << 28)) + random.randrange(1 << 18)
        blocks.update(range(first, first + random.choice((1, 1, 2, 700))))
    if random.random() < 0.3:
        blocks.add(1 << 32)
    narrow = max(blocks) < 1 << 32
    return np.array(sorted(blocks), np.uint32 if narrow else np.uint64)


def zeros_of(random: Random, blocks: Blocks) -> BlockSet:
    return BlockSet([block for block in blocks.tolist() if block % 3 == random.choice((0, 9))])


def bitmap_of(blocks: Blocks) -> BlockSet:
    return BlockSet(array("Q", blocks.astype(np.uint64).tobytes()))


def halves_of_bitmap(
    changed: BlockSet, zeroed: BlockSet, max_bytes: int
) -> Iterator[tuple[BlockSet, BlockSet]]:
    """Yield the pieces of bitmaps, cut by a plain implementation for bitmaps alone."""
    if len(changed) < 2 or pack(changed).size_bytes + pack(zeroed).size_bytes <= max_bytes:
        yield changed, zeroed
        return
    middle = changed.bits[len(changed) // 2]
    low, high = BlockSet(), BlockSet()
    low.add_range(0, middle)
    high.add_range(middle, changed.max() + 1)
    yield from halves_of_bitmap(changed & low, zeroed & low, max_bytes)
    yield from halves_of_bitmap(changed & high, zeroed & high, max_bytes)


def halves_of_array(
    changed: Blocks, zeroed: BlockSet, max_bytes: int
) -> Iterator[tuple[PackedBlocks, PackedBlocks]]:
    """Yield the pieces of arrays, cut by a plain implementation for arrays alone."""
    packed = pack_blocks(changed), pack(zeroed)
    if len(changed) < 2 or packed[0].size_bytes + packed[1].size_bytes <= max_bytes:
        yield packed
        return
    middle = len(changed) // 2
    low, high = BlockSet(), BlockSet()
    low.add_range(0, int(changed[middle]))
    high.add_range(int(changed[middle]), int(changed[-1]) + 1)
    yield from halves_of_array(changed[:middle], zeroed & low, max_bytes)
    yield from halves_of_array(changed[middle:], zeroed & high, max_bytes)


@pytest.mark.parametrize("max_bytes", LIMITS_BYTES)
def test_both_forms_are_cut_as_before(max_bytes: int) -> None:
    random = Random(max_bytes)
    header = record("-1..9")
    for _ in range(25):
        changed = scattered(random)
        zeroed = zeros_of(random, changed)
        whole = replace(header, changed=bitmap_of(changed), zeroed=zeroed)
        split = split_record(whole, max_bytes)
        expected = list(halves_of_bitmap(bitmap_of(changed), zeroed, max_bytes))
        assert [(pack(p.changed), pack(p.zeroed)) for p in split] == [
            (pack(changed), pack(zeroed)) for changed, zeroed in expected
        ]
        packed = pack_record(header, changed, zeroed, max_bytes)
        assert [(part.changed, part.zeroed) for part in packed] == list(
            halves_of_array(changed, zeroed, max_bytes)
        )
        for parts in (split, [part.unpacked() for part in packed]):
            assert [(part.part, part.parts) for part in parts] == [
                (number, len(parts)) for number in range(len(parts))
            ]
            assert union(part.changed for part in parts) == whole.changed
            assert union(part.zeroed for part in parts) == whole.zeroed


def with_chunks(random: Random) -> Blocks:
    """Return scattered blocks, and some whole chunks between them."""
    ranges = [
        np.arange(number << CHUNK_BITS, (number + 1) << CHUNK_BITS, dtype=np.uint32)
        for number in random.sample(range(12), 5)
    ]
    return np.unique(np.concatenate([scattered(random).astype(np.uint32), *ranges]))


def test_records_with_long_runs_are_cut_alike_in_both_forms() -> None:
    random, header = Random(5), record("-1..9")
    for max_bytes in (60, 100, 250, 1000):
        changed = with_chunks(random)
        zeroed = bitmap_of(changed[len(changed) // 3 :])
        whole = replace(header, changed=bitmap_of(changed), zeroed=zeroed)
        parts = split_record(whole, max_bytes)
        packed = pack_record(header, changed, zeroed, max_bytes)
        assert [(pack(p.changed), pack(p.zeroed)) for p in parts] == [
            (part.changed, part.zeroed) for part in packed
        ]
        assert union(part.changed for part in parts) == whole.changed
        assert union(part.zeroed for part in parts) == zeroed
        for low, high in pairwise(parts):
            assert low.changed.max() < high.changed.min()


def test_a_record_of_the_whole_of_the_largest_volume_is_small() -> None:
    whole = BlockSet.of_range(3, (1 << 38) + 5)
    scattered_zeros = BlockSet(range(1 << 20, 1 << 30, 5000))
    (part,) = split_record(replace(record("-1..9"), changed=whole), 1000)
    assert len(encode(part)) < 1000
    parts = split_record(replace(record("-1..9"), changed=whole, zeroed=scattered_zeros), 10_000)
    assert union(part.changed for part in parts) == whole
    assert union(part.zeroed for part in parts) == scattered_zeros
    assert all(len(encode(part)) < 11_000 for part in parts)


def test_a_record_that_fits_is_the_same_bytes_in_both_forms() -> None:
    random = Random(7)
    for _ in range(25):
        changed = scattered(random)
        whole = replace(record("-1..9"), changed=bitmap_of(changed))
        (split,) = split_record(whole, 900_000)
        (packed,) = pack_record(record("-1..9"), changed, BlockSet(), 900_000)
        assert encode(split) == encode(packed)


def test_one_block_is_one_part_whatever_the_limit() -> None:
    (part,) = split_record(record("-1..9", "5"), 1)
    (packed,) = pack_record(record("-1..9"), np.array([5], np.uint32), BlockSet([5]), 1)
    assert list(part.changed) == list(packed.unpacked().changed) == [5]
