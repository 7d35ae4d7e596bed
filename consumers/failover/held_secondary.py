"""A secondary from which its site keeps off, and which this process has locked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from mirrorlog.adapters.addresses import open_file, open_primary
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.failover.backing_files import (
    BackingFiles,
    is_backing_file,
    read_samples,
)
from mirrorlog.consumers.resync.meeting import MeetingStep, meet, resumed
from mirrorlog.consumers.resync.secondaries import FoundSecondary
from mirrorlog.consumers.secondary_exports import export_mark_path, lock_export
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_journals import apply_sealed_of
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.pauses import PauseFile
from mirrorlog.consumers.state.secondary_state import Sample, SecondaryState
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.primary_marks import new_mark
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.settings import Settings

_POLL_S: Final = 0.1
_ANY_ID: Final = str(UUID(int=0))


@dataclass(slots=True)
class HeldSecondary:
    """A secondary that nobody else writes to.

    address: a URI. device: open for writing, and locked as a host locks its primary.
    saved: its saved state, with what its mark says of cycles; None if nothing is known of it.
    doubt: why the state isn't about what is there; None if it is.
    differing: of a file behind an NBD export, the samples of the state that it doesn't hold; None
        of any other secondary.
    stays_paused: it stays paused after the block, unless it is a primary then. Set it before a
        promotion is published, until it is known whether that counts: a secondary that goes on
        meanwhile isn't any more what was found out of it.
    """

    address: str
    device: FileDevice
    saved: SecondaryState | None
    doubt: str | None
    differing: tuple[Sample, ...] | None
    _files: SecondaryFiles
    _marks: PrimaryMarkFiles
    stays_paused: bool = False

    @property
    def is_primary(self) -> bool:
        """Whether it is marked as a primary."""
        return self._marks.read(self.device) is not None

    def is_marked_for(self, volume: Volume) -> bool:
        """Return whether it is marked as the promoted primary, or still as a secondary."""
        mark = self._marks.read(self.device)
        is_primary = mark is not None and mark.primary_id == volume.primary_id
        return is_primary or self._files.find(volume).mark is not None

    def become_primary(self, volume: Volume) -> bool:
        """Mark the device as the volume's primary, with the id that the description names.

        Return False if it was the primary already.

        The mark of a secondary goes last, so a crash leaves both: then the site keeps off it, and
        no host opens it. Doing it again is harmless.
        """
        assert volume.primary_id is not None
        known = self._marks.read(self.device)
        is_primary = known is not None and known.primary_id == volume.primary_id
        if is_primary and self._files.find(volume).mark is None:
            return False
        self.device.flush()
        mark = new_mark(volume, self.device.identity.lasting, volume.primary_id)
        self._marks.write([(self.device, mark)])
        self._files.remove_mark(volume)
        return True


def is_primary_here(site: str, folder: Path, volume: Volume, settings: Settings) -> bool:
    """Return whether the site's secondary is marked as the volume's primary, and as nothing else.

    Then nothing of its promotion is left to be done, and a host may have it open. Nothing is
    locked. folder: of the site.
    """
    addresses = SiteAddresses.from_settings(site, folder, settings)
    address, marks = addresses.secondary(volume), PrimaryMarkFiles(settings.primary_marks_dir)
    if is_nbd(address) or export_mark_path(folder, volume).exists():
        return False
    try:
        with open_file(address, writable=False) as device:
            known = marks.read(device)
    except DeviceFailed:
        return False
    if known is None or known.primary_id != volume.primary_id:
        return False
    return SecondaryFiles(addresses, SitePrimaries(addresses, marks)).find(volume).mark is None


@contextmanager
def hold_secondary(
    site: str,
    folder: Path,
    volume: Volume,
    settings: Settings,
    *,
    patience_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[HeldSecondary]:
    """Let the site keep off the secondary of a volume, and lock it, until the block ends.

    1. The secondary is paused, durably (`site pause`). A site that runs ends its copy within a few
       batches and gives up the lock. A site that starts keeps off it.
    2. If no site runs, a cycle that it had sealed in a journal is applied.
       Then the lock is taken, as a host takes it. Nobody on this machine writes to it any more.
    3. What is there is held against the saved state. Of a file behind an NBD export, the samples of
       the state are read.
    4. After the block, the lock is given up, and the secondary is no longer paused, unless it was
       before, or `stays_paused` is set. A primary isn't paused at all: a process that died had left
       it so. A process that dies leaves it paused.

    folder: of the site. Raise BadUse if there is no such folder, if the secondary is an NBD export,
    or if somebody still has the lock after `patience_s`; DeviceFailed.
    """
    addresses = SiteAddresses.from_settings(site, folder, settings)
    address = addresses.secondary(volume)
    if is_nbd(address):
        raise BadUse(
            "a secondary that is an NBD export can't be promoted as one: a host needs a file or a "
            "device",
            where=f"volume {volume.volume} at {site}, {address}",
            next="Run this where its server has the file or device, with a copy of the site's "
            f"folder: --secondary {volume.volume}=FILE. End the server before.",
        )
    pauses, name, is_primary = PauseFile(folder), volume.volume, False
    before, _ = pauses.change(lambda now: now if now.covers(name) else now.paused(name))  # 1
    stays_paused = before.covers(name)
    try:
        apply_sealed_of(site, folder, settings, name)  # 2
        with (
            _export_locked(folder, volume, patience_s, sleep),
            _locked(address, patience_s, sleep) as device,
        ):
            marks = PrimaryMarkFiles(settings.primary_marks_dir)
            held = _met(site, addresses, volume, device, marks)  # 3
            try:
                yield held
            finally:
                stays_paused |= held.stays_paused
                is_primary = held.is_primary
    finally:
        if is_primary or not stays_paused:
            pauses.change(lambda now: now if now.is_all else now.resumed(name))  # 4


def _met(
    site: str,
    addresses: SiteAddresses,
    volume: Volume,
    device: FileDevice,
    marks: PrimaryMarkFiles,
) -> HeldSecondary:
    """Return what is known of a secondary that is open and locked."""
    folder, address = addresses.folder, addresses.secondary(volume)
    kind, differing = SecondaryFiles, None
    saved = None
    with suppress(StateDamaged):  # meet_saved() says so
        saved = SecondaryStateFiles(folder / "states").load(volume.volume)
    if saved is not None and is_backing_file(address, folder, volume, saved):
        kind, differing = BackingFiles, read_samples(address, saved)
    files = kind(addresses, SitePrimaries(addresses, marks))
    saved, doubt = meet_saved(site, folder, volume, files.find)
    return HeldSecondary(address, device, saved, doubt, differing, files, marks)


@contextmanager
def _export_locked(
    folder: Path, volume: Volume, patience_s: float, sleep: Callable[[float], None]
) -> Iterator[None]:
    """Keep the site's process off a secondary that it reaches as an NBD export. Wait for that."""
    waited_s = 0.0
    while (fd := lock_export(folder, volume.volume)) is None:
        if waited_s >= patience_s:
            raise BadUse(
                "the site's process has the secondary as an NBD export, and doesn't let go of it",
                where=f"volume {volume.volume}, {folder}",
                next="See what it does (`mirrorlog status`), or end it.",
            )
        sleep(_POLL_S)
        waited_s += _POLL_S
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def _locked(
    address: str, patience_s: float, sleep: Callable[[float], None]
) -> Iterator[FileDevice]:
    """Open the secondary and lock it. Wait as long as `patience_s` for its site to let go."""
    waited_s = 0.0
    while True:
        try:
            device = open_primary(address, exclusive=True)
        except BadUse:
            if waited_s >= patience_s:
                raise
            sleep(_POLL_S)
            waited_s += _POLL_S
        else:
            with device:
                yield device
            return


def meet_saved(
    site: str, folder: Path, volume: Volume, find: Callable[[Volume], FoundSecondary]
) -> tuple[SecondaryState | None, str | None]:
    """Return the saved state as it is about what is there, and why it isn't if it isn't.

    find: returns what is there. Nobody may write to the secondary meanwhile.
    """
    try:
        saved = SecondaryStateFiles(folder / "states").load(volume.volume)
    except StateDamaged as error:
        return None, str(error)
    present = find(volume)
    mark_of = SecondaryMark(secondary_id=_ANY_ID, site=site, volume=volume.volume, epoch=0)
    meeting = meet(mark_of, volume, saved, present, primary=None, is_state_damaged=False)
    if meeting.step is MeetingStep.RESUME:
        assert saved is not None and present.mark is not None
        return resumed(saved, present.mark.epoch), None
    if meeting.step is MeetingStep.SAME:
        return saved, None
    return saved, meeting.reason or "nothing is known of its contents"
