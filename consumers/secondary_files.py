"""The secondaries of a site as files and block devices of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mirrorlog.adapters.addresses import open_file, path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import sync_folder
from mirrorlog.adapters.image_locks import ImageUser, lock_secondary
from mirrorlog.adapters.secondary_marks import mark_beside, mark_path, read_mark, write_marks
from mirrorlog.consumers.resync.secondaries import FoundSecondary
from mirrorlog.consumers.secondary_exports import export_mark_path
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries, found_device
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, MirrorlogError, StateDamaged
from mirrorlog.ports.devices import BlockDevice

MAX_HELD: Final = 512
"""How many secondaries stay locked while the site is idle. Each takes a descriptor. The others are
locked only while a cycle writes to them."""


class SecondaryFiles:
    """Secondaries in files and block devices. The mark of a device is in the site's folder.

    Its methods raise BadUse, OSError and RuntimeError too, which SiteDevices turns into
    DeviceFailed.
    """

    def __init__(self, addresses: SiteAddresses, primaries: SitePrimaries) -> None:
        self._addresses: Final = addresses
        self._primaries: Final = primaries
        self._held: Final[dict[str, FileDevice]] = {}

    def close(self) -> None:
        """Release all locks."""
        for device in self._held.values():
            device.close()
        self._held.clear()

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, and change nothing."""
        path = self._path(volume)
        device = marked_at = None
        primary_of = None
        if path.exists():
            with self._open(volume, writable=False) as opened:
                device, primary_mark = found_device(opened), self._primaries.mark_of(opened)
                primary_of = None if primary_mark is None else primary_mark.volume
                marked_at = self._mark_path(path, volume, opened)
        try:
            mark = read_mark(marked_at or self._mark_path(path, volume))
        except StateDamaged as error:
            return FoundSecondary(device=device, mark_damage=str(error), primary_of=primary_of)
        return FoundSecondary(device=device, mark=mark, primary_of=primary_of)

    def hold(self, volume: Volume) -> None:
        """Lock the secondary for as long as the site runs, as Secondaries.hold says.

        If MAX_HELD are locked already, it is only locked while it is open.
        """
        path, held = self._path(volume), self._held.get(volume.volume)
        if held is not None and _is_at(held, path):
            return
        self.release(volume)  # another file is in its place
        device = self._open(volume, writable=True)
        try:
            _lock(device)
        except BaseException:
            device.close()
            raise
        if len(self._held) < MAX_HELD:
            self._held[volume.volume] = device
        else:
            device.close()

    def release(self, volume: Volume) -> None:
        """Give up the lock, if there is one."""
        held = self._held.pop(volume.volume, None)
        if held is not None:
            held.close()

    def create_all(self, volumes: Sequence[Volume]) -> None:
        """Create sparse files of zeros. Raise DeviceFailed if a primary belongs at its place."""
        sizes_bytes: dict[Path, int] = {}
        for volume in volumes:
            path = self._path(volume)
            if path in sizes_bytes:
                raise DeviceFailed(
                    "two volumes have one address for their secondaries",
                    where=f"{path}, offset 0",
                    next="Give each secondary a file or device of its own.",
                )
            sizes_bytes[path] = volume.size_bytes
            if _is_place_of(self._addresses.primary(volume), path):
                raise DeviceFailed(
                    "the secondary has the address of the volume's primary",
                    where=f"{path}, offset 0",
                    next="Give the secondary a file or device of its own.",
                )
        FileDevice.create_all(sizes_bytes)

    def grow(self, volume: Volume) -> None:
        """Make the secondary as large as the volume, durably."""
        with self.open(volume) as device:
            device.resize(volume.size_bytes)

    def write_marks(self, marks: Sequence[tuple[Volume, SecondaryMark]]) -> None:
        """Write these marks durably, each in place of the one before."""
        if marks:
            write_marks({self._mark_path(self._path(v), v): mark for v, mark in marks})

    def remove_mark(self, volume: Volume) -> None:
        """Remove the mark of the secondary, durably. Harmless if there is none."""
        path = self._mark_path(self._path(volume), volume)
        if path.exists():
            path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def open(self, volume: Volume) -> BlockDevice:
        """Open the secondary for writing. It is locked while it is open, or longer."""
        device = self._open(volume, writable=True)
        held = self._held.get(volume.volume)
        try:
            if held is None or not _is_at(held, self._path(volume)):
                _lock(device)
        except BaseException:
            device.close()
            raise
        return device

    def _path(self, volume: Volume) -> Path:
        return path_of(self._addresses.secondary(volume))

    def _open(self, volume: Volume, *, writable: bool) -> FileDevice:
        return open_file(self._addresses.secondary(volume), writable=writable)

    def _mark_path(self, secondary: Path, volume: Volume, opened: FileDevice | None = None) -> Path:
        """Return the path of the mark. opened: the secondary, which saves a look at each folder."""
        if opened is not None and not opened.is_block_device:
            return mark_beside(opened.real_path())
        if not secondary.is_block_device():
            return mark_path(secondary)
        return export_mark_path(self._addresses.folder, volume)


def _lock(device: FileDevice) -> None:
    lock_secondary(device.fileno(), device.address, ImageUser.SITE)


def _is_at(device: FileDevice, path: Path) -> bool:
    """Return whether the path still leads to the open device."""
    try:
        return os.path.samestat(os.fstat(device.fileno()), path.stat())
    except OSError:
        return False


def _is_place_of(address: str, path: Path) -> bool:
    """Return whether the address is that of the file at `path`, by their names."""
    try:
        return path_of(address).resolve() == path.resolve()
    except MirrorlogError:
        return False
