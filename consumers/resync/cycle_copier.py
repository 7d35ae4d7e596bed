"""CycleCopier: copies the blocks of one cycle, from the primary to the secondary or a journal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from mirrorlog.consumers.journal.journal_writer import JournalWriter
from mirrorlog.consumers.range_reads import PageMemory
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.copy_pace import CopyPace
from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.meetings import SecondaryMeetings
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.restoration import (
    Copied,
    CopyPlan,
    bytes_to_copy,
    restore_changed,
)
from mirrorlog.consumers.resync.samples import (
    SampleTaker,
    joined_samples,
    moved_samples,
    samples_without,
)
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.seeds import Seeds
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.resync.staging_step import StageBlocks
from mirrorlog.consumers.resync.whole_copy import DifferingRanges, WholeCopy, copy_whole
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.settings import Settings

SaveState: TypeAlias = Callable[[Secondary, SecondaryState], None]
"""Saves the state of a secondary durably."""
OnStep: TypeAlias = Callable[[Secondary], None]
"""Called before a copy and after each batch. What it raises ends the copy."""

_MEASURE_S: Final = 2.0
"""How long a site asks what a primary has allocated, to say when its copy will end."""
_TURN_S: Final = 10.0
"""After this time, a chunk of a copy of everything ends, so that other volumes have their turn."""


class CopiedCycle(NamedTuple):
    """A cycle whose blocks are on the secondary, and not durable before `device` is flushed.

    device: the secondary, open. The caller closes it. state: to be saved after the flush.
    """

    device: BlockDevice
    state: SecondaryState


class CycleCopier:
    """Copies the blocks of cycles, one cycle at a time.

    save: called with each state that a copy of everything reaches.
    """

    def __init__(
        self,
        settings: Settings,
        ports: SitePorts,
        pace: CopyPace,
        *,
        meetings: SecondaryMeetings,
        logs: ReplicaLogs,
        seeds: Seeds,
        save: SaveState,
        on_step: OnStep,
    ) -> None:
        self._settings, self._pace = settings, pace
        self._clock, self._tasks, self._digests = ports.clock, ports.task_runner, ports.digests
        self._remote_tasks: Final = ports.remote_task_runner
        self._meetings, self._logs, self._seeds = meetings, logs, seeds
        self._save, self._on_step = save, on_step
        self._memory: Final = PageMemory()

    def described(self, secondary: Secondary, step: Resync) -> Resync:
        """Return the step, with a reason that says if both sides are compared."""
        if not self._is_comparing(secondary.volume, step):
            return step
        return replace(
            step, reason=f"{step.reason}; both sides are compared, and only what differs is copied"
        )

    def copy(
        self, secondary: Secondary, step: Resync, snapshots: SnapshotReads
    ) -> CopiedCycle | None:
        """Copy the blocks of one cycle. The caller makes them durable on the secondary.

        snapshots: holds the snapshot that the step reads, if it reads one.
        The secondary was met, and `step.running` is saved. A copy of everything compares both sides
        first if the settings say so (seeds.py). It ends after a chunk, whose state is saved then:
        the site's other volumes have their turn. Return None if the rest is still to be copied.
        Raise DeviceFailed, or what `on_step` raises.
        """
        volume = secondary.volume
        samples = SampleTaker(f"{volume.volume} {step.done.applied_position}")
        self._on_step(secondary)
        primary, device = self._meetings.open_both(secondary)
        with primary, ExitStack() as unless_copied:
            unless_copied.enter_context(device)
            source, done = _source(step, primary, snapshots)
            copied = self._restore(secondary, step, source, device, samples)
            if copied is None:
                return None
            log_of, state = self._logs.of(volume.volume), done()
            older = moved_samples(volume, secondary.saved, state, log_of)
            if step.blocks is not None:
                older = samples_without(older, step.blocks, volume.block_size)
            taken = joined_samples(samples.samples, older)
            unless_copied.pop_all()
        return CopiedCycle(device, replace(state, rung=copied.rung, samples=taken))

    def stage(
        self,
        secondary: Secondary,
        step: StageBlocks,
        writer: JournalWriter,
        snapshots: SnapshotReads,
    ) -> SecondaryState:
        """Copy the blocks of a step from the primary to a journal.

        snapshots: as for copy(). The secondary was met, and nothing is written to it. Return the
        state of both together, with samples of what was copied. Raise JournalFullError,
        DeviceFailed, or what `on_step` raises.
        """
        volume, blocks = secondary.volume, step.step.blocks
        assert blocks is not None
        samples = SampleTaker(f"{volume.volume} {step.step.done.applied_position}")
        self._on_step(secondary)
        primary, device = self._meetings.open_both(secondary)
        with primary, device:
            secondary.begin_staging(len(blocks) * volume.block_size, self._clock.monotonic_s())
            plan = self._plan(secondary, samples)
            source, done = _source(step.step, primary, snapshots)
            restore_changed(source, writer, volume, blocks, plan)
        return replace(done(), samples=samples.samples)

    def _restore(
        self,
        secondary: Secondary,
        step: Resync,
        primary: BlockDevice,
        device: BlockDevice,
        samples: SampleTaker,
    ) -> Copied | None:
        """Copy from `primary` to `device`, the secondary. Return None if it is to go on later."""
        volume, now_s = secondary.volume, self._clock.monotonic_s
        begin, began_s = step.running.copied_bytes or 0, now_s()
        if not secondary.goes_on_with(step):
            secondary.begin_copy(self._bytes_to_copy(volume, step, primary), now_s())
        plan = self._plan(secondary, samples)
        if step.blocks is not None:
            plan = replace(plan, is_flushed_later=True)
            return restore_changed(primary, device, volume, step.blocks, plan)

        def on_chunk(copied_bytes: int) -> None:
            self._meetings.count_chunk(secondary)
            state = replace(
                step.running,
                copied_bytes=copied_bytes,
                anchor=step.done.anchor,
                samples=joined_samples(samples.samples, step.running.samples),
            )
            self._save(secondary, state)

        is_comparing = self._is_comparing(volume, step)
        copy = WholeCopy(
            begin=begin,
            chunk_bytes=self._settings.site_chunk_bytes,
            on_chunk=on_chunk,
            is_chunk_over=lambda: now_s() - began_s >= _TURN_S,
            is_comparing=is_comparing,
            differing=self._differing(secondary) if is_comparing else None,
        )
        return copy_whole(primary, device, volume, plan, copy)

    def _bytes_to_copy(self, volume: Volume, step: Resync, primary: BlockDevice) -> int | None:
        """Return how much the step reads; None if it takes too long to find out."""
        now_s = self._clock.monotonic_s
        until_s = now_s() + _MEASURE_S
        begin = step.running.copied_bytes or 0
        return bytes_to_copy(primary, volume, step.blocks, lambda: now_s() < until_s, begin)

    def _differing(self, secondary: Secondary) -> DifferingRanges | None:
        """Return what asks a process beside the primary for digests; None if nothing shall."""
        if self._digests is None:
            return None
        return partial(
            self._digests.differing, secondary.volume, on_wait=lambda: self._on_step(secondary)
        )

    def _is_comparing(self, volume: Volume, step: Resync) -> bool:
        """Return whether both sides are to be compared, and only what differs is written."""
        return step.blocks is None and self._seeds.is_compared(volume)

    def _plan(self, secondary: Secondary, samples: SampleTaker) -> CopyPlan:
        """Return how the blocks of a secondary are copied. The plan takes `samples`."""

        def on_copied(batch: CopyCounts) -> None:
            secondary.note_copied(batch, self._clock.monotonic_s())
            self._on_step(secondary)

        return CopyPlan(
            batch_bytes=self._pace.batch_bytes(self._settings.site_copy_bytes),
            samples=samples,
            on_copied=on_copied,
            tasks=self._tasks,
            remote_tasks=self._remote_tasks,
            remote_batches=self._settings.site_remote_copy_threads,
            reads=self._pace.reads,
            pace=lambda size_bytes: self._pace.wait(size_bytes, lambda: self._on_step(secondary)),
            is_only_writer=self._logs.of(secondary.volume.volume).fork is None,
            memory=self._memory,
        )


def _source(
    step: Resync, primary: BlockDevice, snapshots: SnapshotReads
) -> tuple[BlockDevice, Callable[[], SecondaryState]]:
    """Return what the blocks of a step are read from.

    Return also a function that returns the state to save, or to stage, when they were read.
    """
    if (unproved := step.unproved) is None:
        return primary, lambda: step.done
    snapshot = snapshots.primary(step.done.volume, primary)
    return snapshot, lambda: unproved if snapshot.is_broken else step.done
