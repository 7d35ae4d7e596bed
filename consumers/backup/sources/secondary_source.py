"""The point of a site's secondary: the primary isn't touched.

1. The secondary is held still at a consistent position, as for a drill (consumers/drills/).
2. If its file system can make a reflink, the point is read from one, and the site goes on at once.
   Otherwise the secondary is held for as long as the point is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.sources.device_blocks import allocated_blocks
from mirrorlog.consumers.backup.sources.log_changes import changes_between, position_facts
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChangesKnown,
    SourcePoint,
    within,
)
from mirrorlog.consumers.drills.drill_copy import DrillCopy, reflink_still
from mirrorlog.consumers.drills.holding import HoldPorts, NotHeld, StillSecondary, holding
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice, Data


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondarySource:
    """A site's secondary of a volume, from which points are taken.

    volume: its description as of now. hold, query: what holding, and asking the log, needs.
    copy_folder: where a reflink is made, on the secondary's file system; None: none is tried.
    wait_s: how long to wait for a consistent position. force: after that, take an inconsistent one
    if nobody writes to it. on_held: called once the point is fixed, as by PrimarySource.
    """

    volume: Volume
    site: str
    hold: HoldPorts
    query: QueryPorts
    copy_folder: Path | None
    wait_s: float
    force: bool = False
    on_held: Callable[[], None] = lambda: None

    @contextmanager
    def point(self, base: BackupPosition | None) -> Iterator[SourcePoint]:
        """Open the point of the secondary, with the changes since `base`, until the block ends.

        Raise NotHeld, DeviceFailed and StateDamaged as DrillHold.take, KafkaFailed, and NotHeld for
        a secondary of which nobody knows what it holds, whatever `force` says.
        """
        with ExitStack() as opened:
            still = opened.enter_context(ExitStack())
            held, hold = still.enter_context(
                holding(self.volume.volume, self.hold, wait_s=self.wait_s, force=self.force)
            )
            position = _position(held, self.hold.where)
            device = held.device
            reflink = self._reflink(device)
            if reflink is not None:
                opened.callback(reflink.close)
                device = opened.enter_context(FileDevice(reflink.path, writable=False))
                still.close()
            self.on_held()
            facts = position_facts(self.volume, position.position, self.query)
            if position.anchor is None:
                position = replace(position, anchor=facts.anchor)
            yield self._point(
                position,
                at_us=facts.at_us,
                reason=held.claims_nothing,
                device=device,
                renew=(lambda: None) if reflink is not None else hold.renew,
                base=base,
            )

    def _reflink(self, device: BlockDevice) -> DrillCopy | None:
        return None if self.copy_folder is None else reflink_still(device, self.copy_folder)

    def _point(
        self,
        position: BackupPosition,
        *,
        at_us: int | None,
        reason: str | None,
        device: BlockDevice,
        renew: Callable[[], None],
        base: BackupPosition | None,
    ) -> SourcePoint:
        renew()
        volume = self.volume.as_of(position.position)
        changes = within(changes_between(base, position, self.volume, self.query), volume)
        return SourcePoint(
            volume=volume,
            position=position,
            at_us=at_us,
            source=f"site {self.site}",
            reason=reason,
            reader=_HeldReader(device, renew),
            changes=changes,
            allocated=None
            if isinstance(changes, ChangesKnown)
            else allocated_blocks(device, volume),
        )


class _HeldReader:
    """Reads a device, and keeps its hold from running out. Any number of threads may call it."""

    def __init__(self, device: BlockDevice, renew: Callable[[], None]) -> None:
        self._reader: Final = DeviceReader(device)
        self._renew: Final = renew
        self._lock: Final = Lock()

    def pread(self, *, offset: int, length: int) -> Data:
        """Do as CopySource.pread says."""
        self._keep_held()
        return self._reader.pread(offset=offset, length=length)

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as CopySource.pread_ranges says."""
        self._keep_held()
        self._reader.pread_ranges(ranges, memory)

    def _keep_held(self) -> None:
        with self._lock:
            self._renew()


def _position(held: StillSecondary, where: str) -> BackupPosition:
    """Return the position of a secondary that is held. Raise NotHeld if nobody knows one."""
    state = held.state
    applied = None if state is None else state.applied_position
    if state is None or applied is None:
        raise NotHeld(
            f"nobody knows what the secondary holds: {held.claims_nothing}",
            where=where,
            next="Back the primary up, or let the site finish its copy.",
        )
    consistent = held.position
    position = applied if consistent is None else consistent
    return BackupPosition(
        position=position,
        generation=state.generation,
        history_id=state.history_id,
        anchor=state.anchor if position == state.known_position else None,
        is_consistent=consistent is not None,
    )
