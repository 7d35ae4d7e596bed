"""The secondaries of a site that are NBD exports. Their marks are in the site's folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import create_folder
from mirrorlog.adapters.secondary_marks import read_mark, write_marks
from mirrorlog.consumers.kept_exports import KeptExports
from mirrorlog.consumers.resync.secondaries import FoundDevice, FoundSecondary
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.devices import BlockDevice


def marks_folder(site_folder: Path) -> Path:
    """Return where a site keeps the marks of secondaries beside which none can lie."""
    folder = site_folder / "marks"
    with suppress(OSError):  # write_marks() reports a folder that can't be created
        create_folder(folder)
    return folder


def export_mark_path(site_folder: Path, volume: Volume) -> Path:
    """Return the path of the mark of a secondary beside which none can lie."""
    return marks_folder(site_folder) / f"{volume.volume}.json"


def with_mark(device: FoundDevice, site_folder: Path, volume: Volume) -> FoundSecondary:
    """Return what was found at an export, with its mark, if the site's folder has one."""
    try:
        mark = read_mark(export_mark_path(site_folder, volume))
    except StateDamaged as error:
        return FoundSecondary(device=device, mark_damage=str(error))
    return FoundSecondary(device=device, mark=mark)


def lock_export(site_folder: Path, volume: str) -> int | None:
    """Lock the secondary of a volume that is an NBD export, for one process that uses the folder.

    Return the descriptor that holds the lock (flock(2)) until it is closed; None if another process
    has it. Raise OSError.
    """
    path = marks_folder(site_folder) / f"{volume}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


class SecondaryExports:
    """Secondaries on NBD servers.

    No lock keeps others off an export: that is the server's to do. A lock in the site's folder says
    that this process may write to it (lock_export).
    """

    def __init__(self, addresses: SiteAddresses) -> None:
        self._addresses: Final = addresses
        self._exports: Final = KeptExports(writable=True)
        self._locks: Final[dict[str, int]] = {}

    def close(self) -> None:
        """Close all connections, and give up all locks."""
        self._exports.close()
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, and change nothing."""
        device = self._exports.look(volume.volume, self._addresses.secondary(volume))
        return with_mark(device, self._addresses.folder, volume)

    def hold(self, volume: Volume) -> None:
        """Lock the secondary for this process.

        Raise DeviceFailed if the site has another volume's secondary there, or if another process
        has it.
        """
        address = self._addresses.secondary(volume)
        other = self._exports.volume_at(address, but=volume.volume)
        if other is not None:
            raise DeviceFailed(
                f"this is the secondary of volume {other}",
                where=f"volume {volume.volume}, {address.partition('?')[0]}, offset 0",
                next="Give each secondary an export of its own.",
            )
        if volume.volume in self._locks:
            return
        fd = lock_export(self._addresses.folder, volume.volume)
        if fd is None:
            raise DeviceFailed(
                "another process uses this secondary in the folder of the site",
                where=f"volume {volume.volume}, {address.partition('?')[0]}, offset 0",
                next="It may be a promotion. The site tries again.",
            )
        self._locks[volume.volume] = fd

    def release(self, volume: Volume) -> None:
        """Close the connection and give up the lock, if there are any."""
        self._exports.drop(volume.volume)
        fd = self._locks.pop(volume.volume, None)
        if fd is not None:
            os.close(fd)

    def create_all(self, volumes: Sequence[Volume]) -> None:
        """Raise DeviceFailed if there are any: exports are made at their server."""
        for volume in volumes:
            raise DeviceFailed(
                "the NBD export doesn't exist", where=f"volume {volume.volume}, offset 0"
            )

    def grow(self, volume: Volume) -> None:
        """Raise DeviceFailed unless the server has grown it. The next look connects again."""
        try:
            self.open(volume).resize(volume.size_bytes)
        finally:
            self._exports.drop(volume.volume)

    def write_marks(self, marks: Sequence[tuple[Volume, SecondaryMark]]) -> None:
        """Write these marks durably, each in place of the one before."""
        if marks:
            folder = self._addresses.folder
            write_marks({export_mark_path(folder, volume): mark for volume, mark in marks})

    def open(self, volume: Volume) -> BlockDevice:
        """Return the export, for writing, at which find() has looked."""
        return self._exports.open(volume.volume, self._addresses.secondary(volume))
