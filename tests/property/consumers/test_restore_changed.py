"""Whatever blocks changed, the secondary holds the primary's bytes there, and its own elsewhere."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notation import volume

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.consumers.resync import restoration
from mirrorlog.consumers.resync.copy_batches import CopyBatch, batches_of, batches_of_blocks
from mirrorlog.consumers.resync.restoration import CopyPlan, restore_changed
from mirrorlog.consumers.resync.samples import SampleTaker, differing_samples
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.task_runner import OneAtATime
from mirrorlog.simulation.memory_devices import MemoryDevice

runs = st.lists(st.tuples(st.integers(0, 600), st.integers(1, 40)), max_size=30)


def block_set(runs: list[tuple[int, int]], blocks: int) -> BlockSet:
    changed = BlockSet()
    for first, count in runs:
        if first < blocks:
            changed.add_range(first, min(first + count, blocks))
    return changed


@pytest.mark.parametrize("is_only_writer", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    runs=runs,
    zeros=runs,
    block_size=st.sampled_from([512, 4096, 8192]),
    cut_bytes=st.sampled_from([0, 0, 1, 512, 4095]),
    batch_blocks=st.integers(1, 100),
    from_file=st.booleans(),
    threads=st.sampled_from([1, 3]),
)
def test_exactly_the_changed_blocks_are_equal_afterwards(
    is_only_writer: bool,
    runs: list[tuple[int, int]],
    zeros: list[tuple[int, int]],
    block_size: int,
    cut_bytes: int,
    batch_blocks: int,
    from_file: bool,
    threads: int,
) -> None:
    blocks = 500
    size = blocks * block_size - min(cut_bytes, block_size - 1)
    of_volume = volume(size_bytes=size, block_size=block_size, initially_zeroed=False)
    changed = block_set(runs, blocks)
    content = bytearray(Random(1).randbytes(size))
    for block in block_set(zeros, blocks):
        end = min((block + 1) * block_size, size)
        content[block * block_size : end] = bytes(end - block * block_size)
    expected = bytearray(b"\xaa" * size)
    for block in changed:
        here = slice(block * block_size, min((block + 1) * block_size, size))
        expected[here] = content[here]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(restoration, "_DIRECT_BYTES", 0)
        secondary = FileDevice.create(Path(folder) / "secondary", size)
        primary: BlockDevice = MemoryDevice(size)
        if from_file:
            primary = FileDevice.create(Path(folder) / "primary", size)
        with primary, secondary:
            primary.pwrite(0, content)
            secondary.pwrite(0, b"\xaa" * size)
            samples = SampleTaker("seed")
            plan = CopyPlan(
                batch_bytes=batch_blocks * block_size,
                samples=samples,
                on_copied=lambda _: None,
                tasks=OneAtATime() if threads == 1 else TaskThreads(threads),
                is_only_writer=is_only_writer,
            )
            copied = restore_changed(primary, secondary, of_volume, changed, plan)
            assert secondary.pread(offset=0, length=size) == expected
            assert copied.blocks == len(changed)
            assert bool(samples.samples) == bool(changed)
            assert differing_samples(secondary, samples.samples) == ()
        assert (Path(folder) / "secondary").read_bytes() == expected


@settings(max_examples=200, deadline=None)
@given(runs=runs, batch_blocks=st.integers(1, 60), cut_bytes=st.integers(0, 4095))
def test_batches_of_blocks_are_those_of_their_runs(
    runs: list[tuple[int, int]], batch_blocks: int, cut_bytes: int
) -> None:
    block_size, batch_bytes = 4096, batch_blocks * 4096
    of_volume = volume(size_bytes=640 * block_size - cut_bytes, initially_zeroed=False)
    changed = block_set(runs, 640)
    ranges = []
    for firsts, ends in changed.run_arrays():
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
            for start in range(first, end, batch_blocks):
                stop = min(min(start + batch_blocks, end) * block_size, of_volume.size_bytes)
                ranges.append((start * block_size, stop - start * block_size))
    batches = list(batches_of_blocks(of_volume, changed, SampleTaker("a"), batch_bytes))
    expected = list(batches_of(ranges, SampleTaker("a"), batch_bytes))
    assert [list(batch.ranges) for batch in batches] == [list(batch.ranges) for batch in expected]
    assert [batch.chosen for batch in batches] == [batch.chosen for batch in expected]
    assert all(batch.size_bytes <= batch_bytes for batch in batches)


@settings(max_examples=100, deadline=None)
@given(runs=runs, batch_blocks=st.integers(1, 300), tasks=st.integers(1, 20))
def test_tapered_batches_hold_the_same_bytes_and_become_smaller(
    runs: list[tuple[int, int]], batch_blocks: int, tasks: int
) -> None:
    block_size, batch_bytes = 65536, batch_blocks * 65536
    of_volume = volume(size_bytes=640 * block_size - 1000, block_size=block_size)
    changed = block_set(runs, 640)

    def batches(tapered_for: int | None) -> list[CopyBatch]:
        taker = SampleTaker("a")
        return list(
            batches_of_blocks(of_volume, changed, taker, batch_bytes, tapered_for=tapered_for)
        )

    def blocks(of: list[CopyBatch]) -> list[int]:
        ranges = [(offset, length) for batch in of for offset, length, _ in batch.ranges]
        return [
            block
            for offset, length in ranges
            for block in range(offset // block_size, -(-(offset + length) // block_size))
        ]

    tapered = batches(tasks)
    assert blocks(tapered) == blocks(batches(None)) == list(changed)
    rest_bytes = len(changed) * block_size
    for batch in tapered:
        share_bytes = max(256 << 10, rest_bytes // (2 * tasks))
        assert batch.size_bytes <= max(block_size, min(batch_bytes, share_bytes))
        rest_bytes -= batch.size_bytes
