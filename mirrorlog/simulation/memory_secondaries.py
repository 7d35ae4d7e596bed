"""The secondaries of a site in memory, with marks that survive a crash once they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final, TypeAlias

from mirrorlog.consumers.resync.secondaries import (
    FoundDevice,
    FoundSecondary,
    TakenSnapshot,
)
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.simulation.memory_devices import MemoryDevice

MarkHook: TypeAlias = Callable[[str, str], None]
"""Called with (step, volume) before each step of writing a mark: "mark" and "mark sync".

It may raise."""


class MemorySecondaries:
    """A double of SecondaryFiles.

    devices: by volume, what is at its address. A test may take one away or put another there.
    marks: by volume, the mark beside it. A test may change them, too.
    primaries: by volume, the device at the primary's address.
    snapshot: takes a snapshot of a primary, as Secondaries.take_snapshot says. A test may set it;
        None: primaries have none.
    missing: volumes whose secondary can't be reached. missing_primaries: the same of primaries.
    hook: called at each step of a mark.
    """

    def __init__(
        self, devices: Mapping[str, MemoryDevice], primaries: Mapping[str, MemoryDevice]
    ) -> None:
        self.devices: Final = dict(devices)
        self.primaries: Final = primaries
        self.marks: Final[dict[str, SecondaryMark]] = {}
        self.missing: Final[set[str]] = set()
        self.missing_primaries: Final[set[str]] = set()
        self.hook: MarkHook | None = None
        self.snapshot: Callable[[Volume], TakenSnapshot] | None = None
        self._durable_marks: dict[str, SecondaryMark] = {}

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there."""
        name = volume.volume
        self._check_reachable(name)
        device = self.devices.get(name)
        return FoundSecondary(
            device=None if device is None else _found(device), mark=self.marks.get(name)
        )

    def find_primary(self, volume: Volume) -> FoundDevice:
        """Look what is at the address of the primary."""
        return _found(self.open_primary(volume))

    def hold(self, volume: Volume) -> None:
        """Do nothing: a simulation has no other processes."""

    def release(self, volume: Volume) -> None:
        """Do nothing."""

    def create_all(self, volumes: Sequence[Volume]) -> None:
        """Create devices of zeros."""
        for volume in volumes:
            self.devices[volume.volume] = MemoryDevice(volume.size_bytes)

    def grow(self, volume: Volume) -> None:
        """Make the secondary as large as the volume."""
        self.open(volume).resize(volume.size_bytes)

    def write_marks(self, marks: Sequence[tuple[Volume, SecondaryMark]]) -> None:
        """Write marks. They survive a crash once this has returned."""
        for volume, mark in marks:
            self._check_reachable(volume.volume)
            self._before("mark", volume.volume)
            self.marks[volume.volume] = mark
        for volume, mark in marks:
            self._before("mark sync", volume.volume)
            self._durable_marks[volume.volume] = mark

    def open(self, volume: Volume) -> MemoryDevice:
        """Open the secondary for writing."""
        self._check_reachable(volume.volume)
        if volume.volume not in self.devices:
            raise DeviceFailed("opening failed: No such file or directory", where=volume.volume)
        return self.devices[volume.volume].reopen()

    def open_primary(self, volume: Volume) -> MemoryDevice:
        """Open the primary for reading."""
        if volume.volume in self.missing_primaries:
            raise DeviceFailed("connecting failed: Connection refused", where=volume.volume)
        return self.primaries[volume.volume].reopen(writable=False)

    def has_snapshots(self, volume: Volume) -> bool:
        """Return whether `snapshot` is set."""
        del volume
        return self.snapshot is not None

    def take_snapshot(self, volume: Volume) -> TakenSnapshot:
        """Call `snapshot`."""
        assert self.snapshot is not None
        return self.snapshot(volume)

    def take_snapshots(self, volumes: Sequence[Volume]) -> dict[str, TakenSnapshot]:
        """Call `snapshot` for each volume: between two of these calls nothing is written."""
        return {volume.volume: self.take_snapshot(volume) for volume in volumes}

    def crash(self, keep: Random | None = None) -> None:
        """Lose power: marks whose writing didn't return are lost, and unflushed writes.

        keep: draws which of those survive all the same.
        """
        for device in self.devices.values():
            device.crash(keep=keep)
        if keep is not None:
            self._durable_marks |= {
                volume: mark for volume, mark in self.marks.items() if keep.getrandbits(1)
            }
        self.marks.clear()
        self.marks.update(self._durable_marks)

    def restore_mark(self, volume: str, mark: SecondaryMark | None) -> None:
        """Put a mark beside a secondary durably, as a restored backup does; None removes it."""
        for marks in (self.marks, self._durable_marks):
            marks.pop(volume, None)
            if mark is not None:
                marks[volume] = mark

    def _check_reachable(self, name: str) -> None:
        if name in self.missing:
            raise DeviceFailed("opening failed: Input/output error", where=name)

    def _before(self, step: str, volume: str) -> None:
        if self.hook is not None:
            self.hook(step, volume)


def _found(device: MemoryDevice) -> FoundDevice:
    opened = device.reopen(writable=False)
    return FoundDevice(
        size_bytes=opened.size_bytes,
        identity=opened.identity,
        is_zeroed=next(opened.allocated(), None) is None,
    )
