"""A cycle as a site calls it (consumers/resync), between any two devices, for benchmarks."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Final
from uuid import UUID

from changed_files import BLOCK_BYTES, Pair

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.consumers.journal.apply_journal import apply_journal
from mirrorlog.consumers.journal.journal_folder import JournalFolder
from mirrorlog.consumers.journal.journal_format import JournalHeader
from mirrorlog.consumers.journal.journal_writer import JournalWriter
from mirrorlog.consumers.range_reads import PageMemory
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.copy_pace import CopyPace
from mirrorlog.consumers.resync.copy_speed import CopyMeter
from mirrorlog.consumers.resync.restoration import CopyPlan, restore_changed
from mirrorlog.consumers.resync.samples import SampleTaker
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.settings import Settings

_ID: Final = "00000000-0000-0000-0000-000000000000"


def _volume(pair: Pair) -> Volume:
    return Volume(
        volume="bench",
        size_bytes=pair.size_bytes,
        generation=_ID,
        block_size=BLOCK_BYTES,
        partition=0,
        origin_position=-1,
        initially_zeroed=False,
        primary=pair.primary.as_uri(),
    )


@cache
def site_settings() -> Settings:
    """Return the settings of a site. A site reads them once, so no run counts that."""
    return Settings()


@cache
def _memory() -> PageMemory:
    """Return the memory of the batches. A site keeps it from cycle to cycle."""
    return PageMemory()


def _plan(settings: Settings, pace: CopyPace | None = None) -> CopyPlan:
    meter = CopyMeter(time.monotonic(), None)

    def on_copied(counts: CopyCounts) -> None:
        meter.note_copied(counts.read_bytes, time.monotonic())

    plan = CopyPlan(
        batch_bytes=settings.site_copy_bytes,
        samples=SampleTaker("bench"),
        on_copied=on_copied,
        tasks=TaskThreads(settings.site_copy_threads),
        remote_tasks=TaskThreads(settings.site_remote_copy_threads),
        remote_batches=settings.site_remote_copy_threads,
        is_only_writer=True,
        memory=_memory(),
    )
    if pace is None:
        return plan
    return replace(
        plan,
        batch_bytes=pace.batch_bytes(plan.batch_bytes),
        pace=lambda size_bytes: pace.wait(size_bytes, lambda: None),
        reads=pace.reads,
    )


def copy_between(
    primary: BlockDevice, secondary: BlockDevice, pair: Pair, pace: CopyPace | None = None
) -> int:
    """Copy the runs of a pair between two devices, as a site does. Return how many bytes.

    pace: of the copy; None for no limit.
    """
    plan = _plan(site_settings(), pace)
    return restore_changed(primary, secondary, _volume(pair), pair.blocks, plan).bytes


def stage_and_apply(primary: BlockDevice, pair: Pair) -> int:
    """Stage the runs of a pair from the primary in a journal, and apply it. Return how many bytes.

    The secondary is the file of the pair.
    """
    settings = site_settings()
    journals = JournalFolder(pair.secondary.parent / "journals")
    file = journals.create("bench")
    header = JournalHeader(
        site="bench",
        volume="bench",
        generation=_ID,
        history_id=None,
        secondary_id=_ID,
        epoch=0,
        after=0,
        description=b"",
    )
    try:
        writer = JournalWriter(file, header, UUID(_ID), max_bytes=settings.site_journal_bytes)
        plan = _plan(settings)
        copied = restore_changed(primary, writer, _volume(pair), pair.blocks, plan)
        journal = writer.seal(through=1, state=b"")
        with FileDevice(pair.secondary, writable=True) as secondary:
            tasks = TaskThreads(settings.site_copy_threads)
            apply_journal(journal, file, secondary, tasks, lambda: None, has_whole_pages=True)
        journals.clear("bench")
    finally:
        file.close()
        journals.close()
    return copied.bytes
