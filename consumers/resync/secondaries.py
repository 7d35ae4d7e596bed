"""The port to the secondaries of a site: what is there, whose it is, and their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice, DeviceIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """A file or device at an address.

    is_zeroed: all of it reads as zeros.
    device_name: the name by which a fork knows a block device, beside which no mark can lie
        (mirrorlog/adapters/device_identity.py); None for a file.
    is_new: it may not be what the last look found, although nothing shows it: it was reached by a
        new connection.
    """

    size_bytes: int
    identity: DeviceIdentity
    is_zeroed: bool
    device_name: str | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSecondary:
    """What is at the address of a secondary.

    device: None if there is nothing.
    mark: None if there is none. mark_damage: why the mark that is there can't be read.
    primary_of: the volume of which it is marked as the primary; None if it isn't.
    """

    device: FoundDevice | None
    mark: SecondaryMark | None = None
    mark_damage: str | None = None
    primary_of: str | None = None


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """A snapshot of a primary. It lasts until `device` is closed, or breaks before that.

    device: to read, from any thread. It raises DeviceFailed if the snapshot is broken, and never
        returns newer data. Its allocated() says nothing.
    """

    device: BlockDevice
    export: SnapshotExport


class Secondaries(Protocol):
    """The secondaries of one site, by volume.

    Every method raises DeviceFailed.
    """

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, and change nothing."""
        ...

    def find_primary(self, volume: Volume) -> FoundDevice:
        """Look what is at the address of the volume's primary, and change nothing.

        DeviceFailed if that is marked as another volume's primary.
        """
        ...

    def hold(self, volume: Volume) -> None:
        """Lock the secondary for as long as the site runs, or at least while it is open.

        DeviceFailed if another process on this machine writes to it: another site, the host of a
        volume whose primary it is, QEMU. A fork of the site's own volume may write at the same
        time.
        """
        ...

    def release(self, volume: Volume) -> None:
        """Give up the lock. Does nothing if there is none."""
        ...

    def create_all(self, volumes: Sequence[Volume]) -> None:
        """Create the secondaries of these volumes durably, all zeros. If that fails, create none.

        Neither a secondary nor its primary may be there already.
        """
        ...

    def grow(self, volume: Volume) -> None:
        """Make the secondary as large as the volume, durably."""
        ...

    def write_marks(self, marks: Sequence[tuple[Volume, SecondaryMark]]) -> None:
        """Write these marks durably, each in place of the one before."""
        ...

    def open(self, volume: Volume) -> BlockDevice:
        """Open the secondary for writing."""
        ...

    def open_primary(self, volume: Volume) -> BlockDevice:
        """Open the volume's primary for reading. DeviceFailed if it is another volume's."""
        ...

    def has_snapshots(self, volume: Volume) -> bool:
        """Return whether take_snapshot() may take one. Asks nothing of anybody."""
        ...

    def take_snapshot(self, volume: Volume) -> TakenSnapshot:
        """Take a snapshot of the volume's primary, which was found.

        DeviceFailed if none can be taken now.
        """
        ...

    def take_snapshots(self, volumes: Sequence[Volume]) -> dict[str, TakenSnapshot]:
        """Take snapshots of the primaries of several volumes as of one moment; all were found.

        If a write was acknowledged before another one was issued, and the second is in one of the
        snapshots, the first is in one, too. Return the snapshots by volume. DeviceFailed if they
        can't be taken now.
        """
        ...
