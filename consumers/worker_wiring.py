"""Puts one worker of a site together: its locks, its part of the site's name, and its site."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.consumers.name_fence import SILENT_S, NameFence
from mirrorlog.consumers.open_ports import (
    check_primary_reader,
    fence_ports,
    own_lease,
    site_ports,
)
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.resync.state_changes import OnChange
from mirrorlog.consumers.site_journals import apply_sealed_as_worker, open_journals
from mirrorlog.consumers.state.site_folder import folder_id
from mirrorlog.consumers.wiring import (
    SiteCalls,
    ignore_life,
    in_turn,
    run_rounds,
    serving,
)
from mirrorlog.consumers.worker_metrics import worker_samples
from mirrorlog.consumers.workers.folder_locks import FolderLocks
from mirrorlog.consumers.workers.group_files import GroupFiles
from mirrorlog.consumers.workers.site_group import SiteGroup
from mirrorlog.consumers.workers.worker_locks import WorkerLocks
from mirrorlog.consumers.workers.worker_share import WorkerShare
from mirrorlog.consumers.workers.worker_status import OnShare, WorkerStatus, ignore_share
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.errors import BadUse
from mirrorlog.metric_samples import MetricSamples
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.settings import Settings

_POLL_S: Final = 0.05
_END_S: Final = 10.0
"""How long a worker that ends waits for another one that starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCalls(SiteCalls):
    """What a worker calls, which is what a site calls, and one more.

    on_summary: is about this worker's volumes.
    on_share: called between two rounds if the worker's share has changed.
    """

    on_share: OnShare = ignore_share


def run_worker(
    name: str,
    folder: Path,
    settings: Settings,
    *,
    stopped: Callable[[], bool] = lambda: False,
    calls: WorkerCalls | None = None,
) -> None:
    """Run one of several workers of the site `name` until `stopped()` returns True.

    All of them run on one machine with the same `folder`, and share the site's volumes among each
    other (docs/decisions/site-workers.md). Everything else is as for run_site. Raise BadUse also if
    a process that isn't a worker has the folder.
    """
    calls = calls or WorkerCalls()
    with (
        open_worker(name, folder, settings, calls.on_change, calls.on_alive) as worker,
        serving(
            worker.site,
            folder,
            settings,
            calls.on_metrics,
            worker.share.is_held,
            worker.samples,
        ),
    ):

        def is_stopped() -> bool:
            worker.tell(calls.on_share)
            return stopped()

        calls.on_ready()
        run_rounds(worker.site, is_stopped, calls.on_summary, SystemClock())


class SiteWorker:
    """A worker of a site that is open."""

    def __init__(self, site: Site, share: WorkerShare, partition_count: Callable[[], int]) -> None:
        self.site: Final = site
        self.share: Final = share
        self._partition_count: Final = partition_count
        self._told: tuple[frozenset[int], int] = (frozenset(), 0)

    def samples(self) -> MetricSamples:
        """Return the metrics of the worker. Any thread may call it."""
        return worker_samples(self.site.name, self.share, len(self.site.secondaries))

    def tell(self, on_share: OnShare) -> None:
        """Call `on_share` if anything has changed since the last call."""
        now = (self.share.held, self.share.worker_count())
        if now != self._told:
            self._told = now
            on_share(
                WorkerStatus(
                    slot=self.share.slot,
                    workers=now[1],
                    partitions=tuple(sorted(now[0])),
                    partition_count=self._partition_count(),
                    volumes=frozenset(self.site.secondaries),
                )
            )


@contextmanager
def open_worker(
    name: str,
    folder: Path,
    settings: Settings,
    on_change: OnChange,
    on_alive: Callable[[], None] = ignore_life,
) -> Iterator[SiteWorker]:
    """Open one of several workers of a site. on_change, on_alive: as in run_site.

    1. Lock the folder together with the other workers, and apply the journals in partitions that
       none of them has. Neither needs Kafka.
    2. Open the ports, and lock a slot.
    3. Take the site's name, or share that of the workers that live.

    What this worker has is given back in the opposite order: the slot, then the devices, then the
    partitions. Raise BadUse if a process without --worker has the folder, or if another one runs
    the site elsewhere.
    """
    check_site_name(name)
    check_primary_reader(settings)
    folder = folder.absolute()
    clock = SystemClock()
    with ExitStack() as stack:
        locks = FolderLocks(folder)
        stack.callback(locks.close)
        with _starting(locks, clock, folder, settings.patience_s + 2 * SILENT_S):
            stack.callback(os.close, lock_folder(folder, shared_by=f"the workers of site {name}"))
            shared_by = f"the workers of site {name}, {folder_id(folder, name)}"
            journals = open_journals(folder, settings, stack, shared_by=shared_by)
        apply_sealed_as_worker(name, folder, settings, journals, locks)
        ports = replace(site_ports(name, folder, settings, stack, []), journals=journals)
        counted = _partition_count(ports, settings)
        with _starting(locks, clock, folder, settings.patience_s + 2 * SILENT_S):
            share = WorkerShare(locks, clock, counted)
            group = SiteGroup(GroupFiles(folder), share, counted)
            lease = own_lease(name, folder, clock)
            fence = NameFence(lease, fence_ports(ports, settings, stack), group)
            group.enter(locks, fence)
        stack.callback(_leave, locks, clock, group, fence)
        ports = replace(
            ports,
            keep_name=in_turn(fence.keep, on_alive),
            note_caught_up=fence.note_caught_up,
            on_change=on_change,
            share=share,
            worker_count=share.worker_count,
        )
        yield SiteWorker(Site(name, ports, settings), share, counted)


def _partition_count(ports: SitePorts, settings: Settings) -> Callable[[], int]:
    """Return a function that returns how many partitions there are.

    A partition that is added counts once a volume is in it.
    """
    at_start = ports.admin.partitions(settings.topics.changelog)

    def count() -> int:
        last = max((volume.partition for volume in ports.catalog.values()), default=-1)
        return max(at_start, last + 1)

    return count


@contextmanager
def _starting(locks: WorkerLocks, clock: Clock, folder: Path, patience_s: float) -> Iterator[None]:
    """Lock the start of workers. Raise BadUse if another one has locked it for `patience_s`."""
    if not _lock_start(locks, clock, patience_s):
        raise BadUse(
            f"another worker of the site has been starting or ending for {patience_s:g} s",
            where=str(folder),
            next="See what that one waits for (`fuser -v` on workers/start.lock shows it), or stop "
            "it.",
        )
    try:
        yield
    finally:
        locks.unlock_start()


def _lock_start(locks: WorkerLocks, clock: Clock, patience_s: float) -> bool:
    until_s = clock.monotonic_s() + patience_s
    while not locks.lock_start():
        if clock.monotonic_s() >= until_s:
            return False
        time.sleep(_POLL_S)
    return True


def _leave(locks: WorkerLocks, clock: Clock, group: SiteGroup, fence: NameFence) -> None:
    """Leave the group. If another worker starts meanwhile, it takes the name over."""
    if _lock_start(locks, clock, _END_S):
        try:
            group.leave(locks, fence)
        finally:
            locks.unlock_start()
