"""The secondaries of a site as files and block devices of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from mirrorlog.adapters.addresses import open_file, path_of
from mirrorlog.adapters.device_identity import device_name
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import create_folder
from mirrorlog.adapters.image_locks import ImageUser, lock_secondary
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.secondary_marks import mark_path, read_mark, write_marks
from mirrorlog.consumers.resync.secondaries import FoundDevice, FoundSecondary
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed, MirrorlogError, StateDamaged
from mirrorlog.ports.devices import BlockDevice

MAX_HELD: Final = 512
"""How many secondaries stay locked while the site is idle. Each takes a descriptor. The others are
locked only while a cycle writes to them."""


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _stops_one_volume(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn whatever an address leads to into DeviceFailed: it stops one volume, not the site.

    resolve() raises RuntimeError for a circle of symbolic links.
    """

    @wraps(method)
    def call(*arguments: _P.args, **named: _P.kwargs) -> _R:
        try:
            return method(*arguments, **named)
        except BadUse as error:
            where = f"{error.where}, offset 0"
            raise DeviceFailed(error.what, where=where, next=error.next) from error
        except (OSError, RuntimeError) as error:
            raise DeviceFailed(
                f"looking at a secondary or a primary failed: {error}",
                next="Check the addresses in the volume's description, and the rights there.",
            ) from error

    return call


def secondary_address(site: str, folder: Path, volume: Volume) -> str:
    """Return the address that the volume names for the site, or that of VOLUME.img in `folder`."""
    return volume.secondaries.get(site) or (folder / f"{volume.volume}.img").as_uri()


class SecondaryFiles:
    """Secondaries in files and block devices. The mark of a device is in the site's folder."""

    def __init__(self, site: str, folder: Path, primary_marks: PrimaryMarkFiles) -> None:
        """folder: the site's. It holds the marks of devices, and secondaries without an address."""
        self._primary_marks: Final = primary_marks
        self._site: Final = site
        self._folder: Final = folder
        self._held: Final[dict[str, FileDevice]] = {}

    def close(self) -> None:
        """Release all locks."""
        for device in self._held.values():
            device.close()
        self._held.clear()

    @_stops_one_volume
    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, and change nothing."""
        path = self._path(volume)
        device = None
        primary_of = None
        if path.exists():
            with self._open(volume, writable=False) as opened:
                device, primary_mark = _found(opened), self._primary_mark(opened)
                primary_of = None if primary_mark is None else primary_mark.volume
        try:
            mark = read_mark(self._mark_path(path, volume))
        except StateDamaged as error:
            return FoundSecondary(device=device, mark_damage=str(error), primary_of=primary_of)
        return FoundSecondary(device=device, mark=mark, primary_of=primary_of)

    @_stops_one_volume
    def find_primary(self, volume: Volume) -> FoundDevice:
        """Look what is at the address of the volume's primary, and change nothing."""
        with self.open_primary(volume) as primary:
            return _found(primary)

    @_stops_one_volume
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

    @_stops_one_volume
    def create(self, volume: Volume) -> None:
        """Create a sparse file of zeros. Raise DeviceFailed if the primary belongs there."""
        path = self._path(volume)
        if _is_primary_path(volume, path):
            raise DeviceFailed(
                "the secondary has the address of the volume's primary",
                where=f"{path}, offset 0",
                next="Give the secondary a file or device of its own.",
            )
        FileDevice.create(path, volume.size_bytes).close()

    @_stops_one_volume
    def grow(self, volume: Volume) -> None:
        """Make the secondary as large as the volume, durably."""
        with self.open(volume) as device:
            device.resize(volume.size_bytes)

    @_stops_one_volume
    def write_marks(self, marks: Sequence[tuple[Volume, SecondaryMark]]) -> None:
        """Write these marks durably, each in place of the one before."""
        if marks:
            write_marks({self._mark_path(self._path(v), v): mark for v, mark in marks})

    @_stops_one_volume
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

    @_stops_one_volume
    def open_primary(self, volume: Volume) -> BlockDevice:
        """Open the volume's primary for reading. Raise DeviceFailed if it is another volume's."""
        primary = open_file(volume.primary, writable=False)
        try:
            mark = self._primary_mark(primary)
            if mark is not None and not mark.is_of(volume):
                which = "an earlier volume" if mark.volume == volume.volume else "volume"
                raise DeviceFailed(
                    f"this is the primary of {which} {mark.volume}: its mark says so",
                    where=f"volume {volume.volume}, {volume.primary}, offset 0",
                    next="Mount the right one. The secondary stays as it is.",
                )
        except BaseException:
            primary.close()
            raise
        return primary

    def _primary_mark(self, device: FileDevice) -> PrimaryMark | None:
        """Return the mark of the device as a primary, if it has one."""
        try:
            return self._primary_marks.read(device)
        except StateDamaged as error:
            raise DeviceFailed(error.what, where=error.where, next=error.next) from error

    def _path(self, volume: Volume) -> Path:
        return path_of(secondary_address(self._site, self._folder, volume))

    def _open(self, volume: Volume, *, writable: bool) -> FileDevice:
        address = secondary_address(self._site, self._folder, volume)
        return open_file(address, writable=writable)

    def _mark_path(self, secondary: Path, volume: Volume) -> Path:
        if not secondary.is_block_device():
            return mark_path(secondary)
        folder = self._folder / "marks"
        with suppress(OSError):  # write_marks() reports a folder that can't be created
            create_folder(folder)
        return folder / f"{volume.volume}.json"


def _found(device: BlockDevice) -> FoundDevice:
    identity = device.identity
    return FoundDevice(
        size_bytes=device.size_bytes,
        identity=identity,
        device_name=device_name(identity),
        is_zeroed=next(device.allocated(), None) is None,
    )


def _lock(device: FileDevice) -> None:
    lock_secondary(device.fileno(), device.address, ImageUser.SITE)


def _is_at(device: FileDevice, path: Path) -> bool:
    """Return whether the path still leads to the open device."""
    try:
        return os.path.samestat(os.fstat(device.fileno()), path.stat())
    except OSError:
        return False


def _is_primary_path(volume: Volume, path: Path) -> bool:
    """Return whether the volume's primary belongs at `path`."""
    try:
        return path_of(volume.primary).resolve() == path.resolve()
    except MirrorlogError:
        return False
