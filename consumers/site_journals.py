"""The journals of a site in its folder: opening them, and applying what is sealed there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.consumers.journal.journal_folder import JournalFolder
from mirrorlog.consumers.journal.journal_mark import (
    check_journal_folder,
    known_journal_folder,
)
from mirrorlog.consumers.journal.journal_store import JournalStore, NoJournals
from mirrorlog.consumers.journal_recovery import RecoveryPorts, recover_journals
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_devices import SiteDevices
from mirrorlog.consumers.state.pauses import PauseFile
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.consumers.workers.worker_locks import WorkerLocks
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings


def open_journals(
    folder: Path, settings: Settings, stack: ExitStack, *, shared_by: str | None = None
) -> JournalStore:
    """Return the journals of a site, which are closed with the stack.

    folder: of the site. shared_by: names the workers that share them; None: this process alone.
    Without `crash` in the settings, those that are there are only applied. Raise BadUse if another
    process has them, or if the folder that the settings name isn't the one that the site used
    before (its disk isn't mounted); DeviceFailed.
    """
    path = settings.site_journal_dir or folder / "journals"
    is_used = settings.site_consistency == "crash" or known_journal_folder(folder) is not None
    if settings.site_journal_dir is not None and is_used:
        check_journal_folder(path.absolute(), folder)
    if settings.site_consistency != "crash" and not path.is_dir():
        return NoJournals()
    journals = JournalFolder(path, shared_by=shared_by)
    stack.callback(journals.close)
    return journals


def site_devices(site: str, folder: Path, settings: Settings) -> SiteDevices:
    """Return the primaries and secondaries of a site."""
    addresses = SiteAddresses.from_settings(site, folder, settings)
    return SiteDevices(addresses, PrimaryMarkFiles(settings.primary_marks_dir))


def apply_sealed(site: str, folder: Path, settings: Settings, journals: JournalStore) -> None:
    """Apply what was sealed before the last end of the site, but for what is paused.

    It needs no Kafka, which may be away for long. The caller has locked the site's folder.
    """
    _recover(site, folder, settings, journals, PauseFile(folder).look().covers)


def apply_sealed_as_worker(
    site: str, folder: Path, settings: Settings, journals: JournalStore, locks: WorkerLocks
) -> None:
    """Apply what was sealed in the partitions that no other worker has; the others have theirs.

    Those partitions are unlocked again. The slots of the workers aren't looked at.
    """
    locked: set[int] = set()

    def may_write(volume: Volume) -> bool:
        if locks.lock_partition(volume.partition):
            locked.add(volume.partition)
        return volume.partition in locked

    is_left = PauseFile(folder).look().covers
    try:
        _recover(site, folder, settings, journals, is_left, may_write)
    finally:
        for partition in locked:
            locks.unlock_partition(partition)


def apply_sealed_of(site: str, folder: Path, settings: Settings, volume: str) -> None:
    """Apply what was sealed of one volume, also of one that is paused.

    Without a folder of journals in the settings, that which the site used last is looked into. Do
    nothing if the site runs: it has applied it itself, or it says why it couldn't.
    """
    if settings.site_journal_dir is None:
        settings = settings.model_copy(update={"site_journal_dir": known_journal_folder(folder)})
    with ExitStack() as stack:
        try:
            stack.callback(os.close, lock_folder(folder))
        except BadUse:
            return
        journals = open_journals(folder, settings, stack)
        _recover(site, folder, settings, journals, lambda name: name != volume)


def _recover(
    site: str,
    folder: Path,
    settings: Settings,
    journals: JournalStore,
    is_left: Callable[[str], bool],
    may_write: Callable[[Volume], bool] = lambda _: True,
) -> None:
    if not journals.volumes():
        return
    secondaries = site_devices(site, folder, settings)
    try:
        ports = RecoveryPorts(
            journals=journals,
            states=SecondaryStateFiles(folder / "states"),
            secondaries=secondaries,
            is_left=is_left,
            may_write=may_write,
            clock=SystemClock(),
            task_runner=TaskThreads(settings.site_copy_threads),
            draw_id=lambda: str(uuid4()),
        )
        recover_journals(site, ports)
    finally:
        secondaries.close()
