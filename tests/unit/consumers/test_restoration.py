"""Restoration: exactly the blocks, durable when it returns, and failed as a whole if one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import TypeVar

import pytest

from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.consumers.resync.copy_batches import batches_of_blocks
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.restoration import Copied, CopyPlan, restore_changed
from mirrorlog.consumers.resync.samples import SampleTaker, differing_samples
from mirrorlog.consumers.resync.whole_copy import WholeCopy, copy_whole
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner
from mirrorlog.simulation.memory_devices import MemoryDevice, failing

T = TypeVar("T")
BLOCK = 4096
BLOCKS = 200
SIZE = BLOCKS * BLOCK - 1000
BATCH = 5 * BLOCK
BOTH = [OneAtATime(), TaskThreads(3)]
VOLUME = Volume(
    volume="v",
    generation="00000000-0000-0000-0000-000000000000",
    size_bytes=SIZE,
    block_size=BLOCK,
    partition=0,
    origin_position=-1,
    initially_zeroed=False,
    primary="memory://v",
)


class Devices:
    """A primary of which a part is zeros, and a secondary that holds something else.

    is_far: the primary is on another machine.
    """

    def __init__(self, seed: int = 1, *, is_far: bool = False) -> None:
        random = Random(seed)
        self.is_far = is_far
        self.primary, self.secondary = MemoryDevice(SIZE), MemoryDevice(SIZE)
        for block in range(BLOCKS):
            if random.random() < 0.6:
                self.primary.pwrite(block * BLOCK, random.randbytes(min(BLOCK, self._left(block))))
        vars(self.primary)["is_remote"] = is_far
        self.secondary.pwrite(0, b"\xaa" * SIZE)
        self.secondary.flush()
        self.blocks = BlockSet(block for block in range(BLOCKS) if random.random() < 0.5)
        self.blocks.add(BLOCKS - 1)
        self.copied: list[CopyCounts] = []
        self.samples = SampleTaker("seed")

    def plan(self, runner: TaskRunner) -> CopyPlan:
        return CopyPlan(
            batch_bytes=BATCH,
            samples=self.samples,
            on_copied=self.copied.append,
            tasks=runner,
            remote_tasks=runner if self.is_far else None,
        )

    def copy_whole(
        self,
        runner: TaskRunner,
        *,
        chunk_bytes: int,
        begin: int = 0,
        on_chunk: Callable[[int], None] = lambda _: None,
        is_comparing: bool = False,
    ) -> Copied | None:
        copy = WholeCopy(
            begin=begin, chunk_bytes=chunk_bytes, on_chunk=on_chunk, is_comparing=is_comparing
        )
        return copy_whole(self.primary, self.secondary, VOLUME, self.plan(runner), copy)

    def expected(self) -> bytes:
        expected = bytearray(b"\xaa" * SIZE)
        primary = self.primary.pread(offset=0, length=SIZE)
        for block in self.blocks:
            here = slice(block * BLOCK, block * BLOCK + min(BLOCK, self._left(block)))
            expected[here] = primary[here]
        return bytes(expected)

    def _left(self, block: int) -> int:
        return SIZE - block * BLOCK


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("seed", range(5))
def test_the_blocks_and_nothing_else_are_durable(runner: TaskRunner, seed: int) -> None:
    devices = Devices(seed)
    copied = restore_changed(
        devices.primary, devices.secondary, VOLUME, devices.blocks, devices.plan(runner)
    )
    assert devices.secondary.snapshot() == devices.expected()
    assert copied.rung is Rung.CHANGED
    assert copied.blocks == len(devices.blocks) == sum(batch.blocks for batch in devices.copied)
    assert copied.bytes == len(devices.blocks) * BLOCK - 1000
    assert copied.bytes == sum(batch.read_bytes for batch in devices.copied)
    assert max(batch.read_bytes for batch in devices.copied) <= BATCH
    assert devices.samples.samples
    assert differing_samples(devices.secondary, devices.samples.samples) == ()


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("is_far", [False, True])
def test_everything_is_copied_and_what_is_not_allocated_is_not_read(
    runner: TaskRunner, is_far: bool
) -> None:
    devices = Devices(is_far=is_far)
    read: list[int] = []

    def hook(operation: str, offset: int, length: int) -> None:
        if operation == "pread":
            read.extend(range(offset, offset + length, BLOCK))

    allocated = list(devices.primary.allocated())
    devices.primary.hook = hook
    copied = devices.copy_whole(runner, chunk_bytes=BLOCKS << 20)
    devices.primary.hook = None
    assert devices.secondary.snapshot() == devices.primary.pread(offset=0, length=SIZE)
    assert copied is not None and copied.rung is Rung.ALLOCATED
    assert sorted(read) == [
        block for offset, length in allocated for block in range(offset, offset + length, BLOCK)
    ]
    assert differing_samples(devices.secondary, devices.samples.samples) == ()


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("begin_block", [0, 7, BLOCKS - 1])
@pytest.mark.parametrize("is_far", [False, True])
def test_a_copy_of_everything_is_durable_up_to_each_chunk(
    runner: TaskRunner, begin_block: int, is_far: bool
) -> None:
    devices = Devices(is_far=is_far)
    begin, reached = begin_block * BLOCK, list[int]()
    primary = devices.primary.pread(offset=0, length=SIZE)

    def on_chunk(copied_bytes: int) -> None:
        reached.append(copied_bytes)
        assert devices.secondary.snapshot()[begin:copied_bytes] == primary[begin:copied_bytes]

    while not devices.copy_whole(
        runner, begin=max([begin, *reached]), chunk_bytes=4 * BATCH, on_chunk=on_chunk
    ):
        assert reached
    assert devices.secondary.snapshot()[begin:] == primary[begin:]
    assert devices.secondary.snapshot()[:begin] == b"\xaa" * begin
    assert reached == sorted(set(reached))
    assert all(begin < copied_bytes < SIZE for copied_bytes in reached)
    assert len(reached) >= (4 if begin_block < 10 else 0)


@pytest.mark.parametrize("runner", BOTH)
@pytest.mark.parametrize("operation", ["pread", "pwrite", "zero", "flush"])
def test_one_failure_fails_the_copy_and_ends_it(runner: TaskRunner, operation: str) -> None:
    devices = Devices()
    device = devices.primary if operation == "pread" else devices.secondary
    device.hook = failing(1 if operation == "flush" else 5, operation)
    with pytest.raises(DeviceFailed, match="planned by a test"):
        restore_changed(
            devices.primary, devices.secondary, VOLUME, devices.blocks, devices.plan(runner)
        )
    assert devices.secondary.snapshot() == b"\xaa" * SIZE  # nothing was flushed
    device.hook = failing(1)  # nothing is under way any more


@pytest.mark.parametrize("runner", BOTH)
def test_a_site_that_another_process_runs_stops_within_a_few_batches(runner: TaskRunner) -> None:
    devices = Devices()
    written = 0

    def hook(operation: str, _offset: int, length: int) -> None:
        nonlocal written
        written += length

    def refuse(_batch: CopyCounts) -> None:
        raise BadUse("another process runs the site", where="site a", next="Stop one.")

    devices.secondary.hook = hook
    plan = CopyPlan(batch_bytes=BATCH, samples=devices.samples, on_copied=refuse, tasks=runner)
    with pytest.raises(BadUse, match="another process"):
        restore_changed(devices.primary, devices.secondary, VOLUME, devices.blocks, plan)
    assert written <= 7 * BATCH


@pytest.mark.parametrize("runner", BOTH)
def test_a_copy_that_compares_writes_what_differs_and_counts_it(runner: TaskRunner) -> None:
    devices = Devices()
    primary = devices.primary.pread(offset=0, length=SIZE)
    allocated = sum(length for _, length in devices.primary.allocated())
    devices.secondary.pwrite(0, primary)
    for block in (3, 4, 77, BLOCKS - 1):
        devices.secondary.pwrite(block * BLOCK + 9, b"other")
    devices.secondary.flush()
    written = set[int]()

    def hook(operation: str, offset: int, length: int) -> None:
        if operation in ("pwrite", "zero"):
            written.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))

    devices.secondary.hook = hook
    reached = [0]
    while not devices.copy_whole(
        runner,
        begin=reached[-1],
        chunk_bytes=4 * BATCH,
        on_chunk=reached.append,
        is_comparing=True,
    ):
        assert len(reached) > 1
    assert devices.secondary.snapshot() == primary
    assert written == {3, 4, 77, BLOCKS - 1}
    counts = sum(devices.copied, CopyCounts())
    assert counts.read_bytes == counts.compared_bytes == allocated
    assert counts.written_bytes == 4 * BLOCK - 1000
    of_allocated = sum(any(primary[block * BLOCK :][:BLOCK]) for block in written) * BLOCK
    assert allocated - counts.equal_bytes in (of_allocated, of_allocated - 1000)
    assert differing_samples(devices.secondary, devices.samples.samples) == ()


def test_what_reads_the_primary_gets_the_ranges_of_a_batch_at_once() -> None:
    devices, seen = Devices(), list[int]()

    class Reader(DeviceReader):
        def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
            seen.append(len(ranges))
            super().pread_ranges(ranges, memory)

    plan = replace(devices.plan(TaskThreads(3)), reads=Reader)
    restore_changed(devices.primary, devices.secondary, VOLUME, devices.blocks, plan)
    assert devices.secondary.snapshot() == devices.expected()
    batches = list(batches_of_blocks(VOLUME, devices.blocks, devices.samples, BATCH))
    assert sorted(seen) == sorted(len(batch.ranges) for batch in batches)
    assert max(seen) > 1


@pytest.mark.parametrize("remote_side", ["primary", "secondary", "neither"])
def test_a_side_on_another_machine_takes_the_remote_tasks(remote_side: str) -> None:
    devices, used = Devices(), list[str]()

    class Noting(OneAtATime):
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, tasks: Iterable[Callable[[], T]], on_done: Callable[[T], None]) -> None:
            used.append(self.name)
            super().run(tasks, on_done)

    for name in ("primary", "secondary"):
        vars(getattr(devices, name))["is_remote"] = name == remote_side
    plan = replace(devices.plan(Noting("local")), remote_tasks=Noting("remote"))
    restore_changed(devices.primary, devices.secondary, VOLUME, devices.blocks, plan)
    assert devices.secondary.snapshot() == devices.expected()
    assert used == ["local" if remote_side == "neither" else "remote"]
