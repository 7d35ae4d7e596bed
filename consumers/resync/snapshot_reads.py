"""The snapshots of primaries that a site holds, and when it takes one.

docs/decisions/point-in-time-reads.md has the reasons, snapshot_step.py the decisions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.consumers.resync.cycle_steps import CycleInput, Idle, Resync
from mirrorlog.consumers.resync.retry_pace import RetryPace
from mirrorlog.consumers.resync.secondaries import Secondaries, TakenSnapshot
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.staging_step import InPlace, StageBlocks, StagingStep
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.closing import ClosesOnExit
from mirrorlog.ports.devices import BlockDevice, Data, DeviceIdentity, is_remote
from mirrorlog.tracking_log.heads import Watermark

log = logging.getLogger("mirrorlog.site")

_HELD_S: Final = 10.0
"""How long a snapshot may wait for the log to reach it."""
_FIRST_RETRY_S: Final = 3.0
"""How long a site asks for no snapshot after one was refused."""
_MOST_RETRY_S: Final = 30.0
"""The same while they are refused again and again."""


@dataclass(slots=True)
class _Held:
    """until_s: when to give it up if the log hasn't reached it."""

    taken: TakenSnapshot
    until_s: float


class SnapshotReads:
    """By volume, at most one snapshot. One thread calls it, except for SnapshotPrimary.

    interval_s: a snapshot is taken for a secondary that wasn't proved consistent for this long.
    """

    def __init__(self, secondaries: Secondaries, clock: Clock, interval_s: float) -> None:
        self._secondaries, self._clock, self._interval_s = secondaries, clock, interval_s
        self._held: Final[dict[str, _Held]] = {}
        self._proved_s: Final[dict[str, float]] = {}
        self._refused: Final[dict[str, RetryPace]] = {}

    def note_saved(self, secondary: Secondary) -> None:
        """Note when the secondary is proved consistent: its state was just saved."""
        name, saved = secondary.volume.volume, secondary.saved
        if name in self._proved_s and saved is not None and saved.consistent_position is not None:
            self._proved_s[name] = self._clock.monotonic_s()

    def take_if_due(self, secondary: Secondary) -> None:
        """Take a snapshot if the secondary needs one: a cycle of it has just ended.

        Until the log has reached it, next_step() lets nothing be read from the primary itself.
        """
        volume, saved = secondary.volume, secondary.saved
        name = volume.volume
        if saved is None or name in self._held or not self._secondaries.has_snapshots(volume):
            return
        if saved.is_unproved_copy:
            return  # snapshot_step() would refuse it
        now_s, refused = self._clock.monotonic_s(), self._refused.get(name)
        due_s = self._proved_s.setdefault(name, now_s) + self._interval_s
        if now_s < due_s or (refused is not None and not refused.is_over(now_s)):
            return
        try:
            taken = self._secondaries.take_snapshot(volume)
        except DeviceFailed as error:
            log.warning("%s: no snapshot of the primary: %s", name, error)
            pace = RetryPace(first_s=_FIRST_RETRY_S, most_s=_MOST_RETRY_S)
            self._refused.setdefault(name, pace).note_failed(self._clock.monotonic_s())
            return
        self._refused.pop(name, None)
        self._held[name] = _Held(taken, self._clock.monotonic_s() + _HELD_S)

    def with_snapshot(
        self, cycle_input: Callable[[Secondary], CycleInput]
    ) -> Callable[[Secondary], CycleInput]:
        """Return `cycle_input` with the snapshot that is held of the secondary's primary."""

        def with_it(secondary: Secondary) -> CycleInput:
            held = self._held.get(secondary.volume.volume)
            export = None if held is None else held.taken.export
            return replace(cycle_input(secondary), snapshot=export)

        return with_it

    def note_step(self, volume: str, step: StagingStep, watermark: Watermark | None) -> None:
        """Give up the snapshot unless this step reads it, or waits until the log reaches it.

        watermark: of the volume's partition.
        """
        held = self._held.get(volume)
        cycle = step.step if isinstance(step, StageBlocks | InPlace) else step
        if held is None or (isinstance(cycle, Resync) and cycle.reads_snapshot):
            return
        is_reached = watermark is not None and watermark.through >= held.taken.export.position
        if is_reached or not isinstance(step, Idle):
            self.drop(volume)

    def primary(self, volume: str, live: BlockDevice) -> SnapshotPrimary:
        """Return the primary as of the snapshot, and `live` where the snapshot is broken."""
        return SnapshotPrimary(self._held[volume].taken.device, live)

    @contextmanager
    def holding(self, volume: str, taken: TakenSnapshot) -> Iterator[None]:
        """Let the cycles of a volume read this snapshot, which the caller closes."""
        self.drop(volume)
        self._held[volume] = _Held(taken, math.inf)
        try:
            yield
        finally:
            self._held.pop(volume, None)

    def drop(self, volume: str) -> None:
        """Give up the snapshot of a volume, if there is one."""
        held = self._held.pop(volume, None)
        if held is not None:
            held.taken.device.close()

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self.drop(volume)
        self._proved_s.pop(volume, None)
        self._refused.pop(volume, None)

    def drop_late(self) -> set[str]:
        """Give up the snapshots that the log hasn't reached in time; return their volumes."""
        if not self._held:
            return set()
        now_s = self._clock.monotonic_s()
        late = {name for name, held in self._held.items() if now_s >= held.until_s}
        for name in late:
            log.warning("%s: the log didn't reach the snapshot of the primary in time", name)
            self.drop(name)
        return late


class SnapshotPrimary(ClosesOnExit):
    """A BlockDevice to read: a snapshot, and the primary itself once the snapshot is broken.

    is_broken: some of what was read came from the primary itself.
    """

    def __init__(self, snapshot: BlockDevice, live: BlockDevice) -> None:
        self._snapshot, self._live = snapshot, live
        self.is_broken = False

    @property
    def size_bytes(self) -> int:
        return self._live.size_bytes

    @property
    def identity(self) -> DeviceIdentity:
        return self._live.identity

    @property
    def is_remote(self) -> bool:
        """Whether the primary is on another machine."""
        return is_remote(self._live)

    def pread(self, *, offset: int, length: int) -> Data:
        """Read from the snapshot; any thread."""
        if not self.is_broken:
            try:
                return self._snapshot.pread(offset=offset, length=length)
            except DeviceFailed as error:
                self.is_broken = True
                log.warning("the snapshot of a primary broke: %s", error)
        return self._live.pread(offset=offset, length=length)

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as ReadsRanges says; any thread."""
        if not self.is_broken:
            try:
                DeviceReader(self._snapshot).pread_ranges(ranges, memory)
                return
            except DeviceFailed as error:
                self.is_broken = True
                log.warning("the snapshot of a primary broke: %s", error)
        DeviceReader(self._live).pread_ranges(ranges, memory)

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        return self._live.allocated(start)

    def pwrite(self, offset: int, data: Data) -> None:
        self._live.pwrite(offset, data)

    def zero(self, *, offset: int, length: int) -> None:
        self._live.zero(offset=offset, length=length)

    def flush(self) -> None:
        self._live.flush()

    def resize(self, size_bytes: int) -> None:
        self._live.resize(size_bytes)

    def close(self) -> None:
        self._live.close()
