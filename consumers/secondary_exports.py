"""The secondaries of a site that are NBD exports. Their marks are in the site's folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import create_folder
from mirrorlog.adapters.secondary_marks import read_mark, write_marks
from mirrorlog.consumers.kept_exports import KeptExports
from mirrorlog.consumers.resync.secondaries import FoundSecondary
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


class SecondaryExports:
    """Secondaries on NBD servers.

    No lock keeps others off an export: that is the server's to do.
    """

    def __init__(self, addresses: SiteAddresses) -> None:
        self._addresses: Final = addresses
        self._exports: Final = KeptExports(writable=True)

    def close(self) -> None:
        """Close all connections."""
        self._exports.close()

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, and change nothing."""
        device = self._exports.look(volume.volume, self._addresses.secondary(volume))
        try:
            mark = read_mark(self._mark_path(volume))
        except StateDamaged as error:
            return FoundSecondary(device=device, mark_damage=str(error))
        return FoundSecondary(device=device, mark=mark)

    def hold(self, volume: Volume) -> None:
        """Raise DeviceFailed if the site has another volume's secondary there."""
        address = self._addresses.secondary(volume)
        other = self._exports.volume_at(address, but=volume.volume)
        if other is not None:
            raise DeviceFailed(
                f"this is the secondary of volume {other}",
                where=f"volume {volume.volume}, {address.partition('?')[0]}, offset 0",
                next="Give each secondary an export of its own.",
            )

    def release(self, volume: Volume) -> None:
        """Close the connection, if there is one."""
        self._exports.drop(volume.volume)

    def create(self, volume: Volume) -> None:
        """Raise DeviceFailed: exports are made at their server."""
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
            write_marks({self._mark_path(volume): mark for volume, mark in marks})

    def open(self, volume: Volume) -> BlockDevice:
        """Return the export, for writing, at which find() has looked."""
        return self._exports.open(volume.volume, self._addresses.secondary(volume))

    def _mark_path(self, volume: Volume) -> Path:
        return marks_folder(self._addresses.folder) / f"{volume.volume}.json"
