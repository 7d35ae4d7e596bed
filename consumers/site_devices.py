"""The primaries and secondaries of a site, by their addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.resync.secondaries import FoundDevice, FoundSecondary, TakenSnapshot
from mirrorlog.consumers.secondary_exports import SecondaryExports
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import BlockDevice

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
            where = f"{error.where}, offset 0" if error.where else ""
            raise DeviceFailed(error.what, where=where, next=error.next) from error
        except (OSError, RuntimeError) as error:
            raise DeviceFailed(
                f"looking at a secondary or a primary failed: {error}",
                next="Check the addresses in the volume's description, and the rights there.",
            ) from error

    return call


class SiteDevices:
    """Secondaries in files, on block devices and on NBD servers; and the primaries of a site."""

    def __init__(self, addresses: SiteAddresses, marks: PrimaryMarkFiles) -> None:
        self._addresses: Final = addresses
        self._primaries: Final = SitePrimaries(addresses, marks)
        self._files: Final = SecondaryFiles(addresses, self._primaries)
        self._exports: Final = SecondaryExports(addresses)

    @classmethod
    def in_folder(cls, site: str, folder: Path, marks: PrimaryMarkFiles) -> SiteDevices:
        """Return the devices of a site that has no addresses of its own."""
        return cls(SiteAddresses(site, folder), marks)

    def close(self) -> None:
        """Release all locks, and close all connections."""
        for part in (self._files, self._exports, self._primaries):
            part.close()

    @_stops_one_volume
    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, and change nothing."""
        return self._kind_of(volume).find(volume)

    @_stops_one_volume
    def find_primary(self, volume: Volume) -> FoundDevice:
        """Look what is at the address of the volume's primary, and change nothing."""
        return self._primaries.find(volume)

    @_stops_one_volume
    def hold(self, volume: Volume) -> None:
        """Lock the secondary as Secondaries.hold says, where it can be locked."""
        self._kind_of(volume).hold(volume)

    def release(self, volume: Volume) -> None:
        """Give up the lock and the connection, if there are any."""
        self._files.release(volume)
        self._exports.release(volume)

    @_stops_one_volume
    def create_all(self, volumes: Sequence[Volume]) -> None:
        """Create the secondaries of these volumes, all zeros."""
        self._exports.create_all([volume for volume in volumes if self._is_export(volume)])
        self._files.create_all([volume for volume in volumes if not self._is_export(volume)])

    @_stops_one_volume
    def grow(self, volume: Volume) -> None:
        """Make the secondary as large as the volume, durably."""
        self._kind_of(volume).grow(volume)

    @_stops_one_volume
    def write_marks(self, marks: Sequence[tuple[Volume, SecondaryMark]]) -> None:
        """Write these marks durably, each in place of the one before."""
        self._files.write_marks([mark for mark in marks if not self._is_export(mark[0])])
        self._exports.write_marks([mark for mark in marks if self._is_export(mark[0])])

    @_stops_one_volume
    def open(self, volume: Volume) -> BlockDevice:
        """Open the secondary for writing."""
        return self._kind_of(volume).open(volume)

    @_stops_one_volume
    def open_primary(self, volume: Volume) -> BlockDevice:
        """Open the volume's primary for reading. DeviceFailed if it is another volume's."""
        return self._primaries.open(volume)

    def has_snapshots(self, volume: Volume) -> bool:
        """Return whether the volume's primary was found to have snapshots."""
        return self._primaries.has_snapshots(volume)

    @_stops_one_volume
    def take_snapshot(self, volume: Volume) -> TakenSnapshot:
        """Take a snapshot of the volume's primary, which was found."""
        return self._primaries.take_snapshot(volume)

    def _kind_of(self, volume: Volume) -> SecondaryFiles | SecondaryExports:
        return self._exports if self._is_export(volume) else self._files

    def _is_export(self, volume: Volume) -> bool:
        return is_nbd(self._addresses.secondary(volume))

    @_stops_one_volume
    def take_snapshots(self, volumes: Sequence[Volume]) -> dict[str, TakenSnapshot]:
        """Take snapshots of the primaries of these volumes as of one moment."""
        return self._primaries.take_snapshots(volumes)
