"""Chains of images against a volume in memory: what is written is what is read back."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from backup_images import ImageChain, random_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.packing import pack_masks
from mirrorlog.domain.range_columns import RangeColumns

KINDS = [
    (ImageLayout.SUBCLUSTERS, False),
    (ImageLayout.CLUSTERS, False),
    (ImageLayout.CLUSTERS, True),
]
BLOCKS = st.integers(0, 299)
STEPS = st.one_of(
    st.tuples(st.just("write"), BLOCKS, st.integers(1, 40)),
    st.tuples(st.just("zero"), BLOCKS, st.integers(1, 40)),
    st.tuples(st.just("resize"), st.integers(1, 2400), st.just(0)),
    st.tuples(st.just("point"), st.just(0), st.just(0)),
)


def apply(chain: ImageChain, steps: list[tuple[str, int, int]]) -> None:
    """Do the steps, then take one more point."""
    for number, (step, first, count) in enumerate(steps):
        if step == "resize":
            chain.resize(first * 512)
        elif step == "point":
            chain.take_point()
        for block in range(first, first + count):
            if step == "write":
                chain.write(block, number * 1000 + block)
            else:
                chain.zero(block)
    chain.take_point()


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    block_size=st.sampled_from([512, 4096, 8192]),
    size=st.integers(1, 2400),
    steps=st.lists(STEPS, max_size=25),
    cuts=st.lists(st.integers(0, 1 << 20), min_size=2, max_size=12),
)
def test_each_point_of_a_chain_reads_as_the_volume_was(
    kind: tuple[ImageLayout, bool],
    block_size: int,
    size: int,
    steps: list[tuple[str, int, int]],
    cuts: list[int],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        chain = ImageChain(Path(folder), kind[0], block_size, is_compressed=kind[1])
        chain.resize(size * 512 - 200)
        apply(chain, steps)
        for depth, content in enumerate(chain.contents):
            with ChainReader(
                chain.paths[depth:], image_ids=chain.image_ids[depth:], size_bytes=len(content)
            ) as reader:
                assert reader.pread(offset=0, length=len(content)) == content
                edges = sorted({cut % (len(content) + 1) for cut in cuts})
                ranges = RangeColumns.of([(one, two - one) for one, two in pairwise(edges)])
                memory = bytearray(b"\xaa" * ranges.size_bytes)
                reader.pread_ranges(ranges, memoryview(memory))
                assert memory == content[edges[0] : edges[-1]]
                allocated = bytearray(len(content))
                for offset, length in reader.allocated():
                    allocated[offset : offset + length] = content[offset : offset + length]
                assert allocated == content


@pytest.mark.parametrize(("layout", "is_compressed"), KINDS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_volume_that_grows_and_shrinks_reads_as_it_was(
    layout: ImageLayout, is_compressed: bool, seed: int, tmp_path: Path
) -> None:
    chain = random_chain(tmp_path, layout, points=8, seed=seed, is_compressed=is_compressed)
    for depth, content in enumerate(chain.contents):
        with ChainReader(chain.paths[depth:], image_ids=chain.image_ids[depth:]) as reader:
            assert reader.pread(offset=0, length=reader.size_bytes) == content


@settings(deadline=None)
@given(st.lists(st.integers(1, (1 << 32) - 1), max_size=200), st.integers(0, 200))
def test_masks_that_share_a_host_cluster_are_disjoint(masks: list[int], singles: int) -> None:
    masks = masks + [1 << (number * 7 % 32) for number in range(singles)]
    hosts, count = pack_masks(np.array(masks, np.uint32))
    used = [0] * count
    for mask, host in zip(masks, hosts.tolist(), strict=True):
        assert not used[host] & mask
        used[host] |= mask
    assert all(used)
