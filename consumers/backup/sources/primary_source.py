"""The point of a volume's primary, by a snapshot of its host, or read while hosts write to it.

1. Follow the log.
2. If a host serves the primary, and takes snapshots, take one. It is the volume as of one position
   (docs/decisions/point-in-time-reads.md), once the log shows that nobody else wrote meanwhile.
3. Otherwise copy what is needed in rounds until it is proved (live_reads.py). The point is read
   from that copy.

All that is allocated, at a time before the snapshot, and all that the log names since the commands
ended before that time: what is in neither of the two is zeros in the snapshot.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.sources.device_blocks import allocated_blocks
from mirrorlog.consumers.backup.sources.followed_log import FollowedLog
from mirrorlog.consumers.backup.sources.live_reads import LiveReads, SourceChanged
from mirrorlog.consumers.backup.sources.log_changes import changes_between, position_facts
from mirrorlog.consumers.backup.sources.source_point import (
    PRIMARY,
    BackupPosition,
    ChangesKnown,
    ChangesUnknown,
    PointChanges,
    SourcePoint,
    within,
)
from mirrorlog.consumers.range_reads import DeviceReader
from mirrorlog.consumers.resync.secondaries import FoundDevice, TakenSnapshot
from mirrorlog.consumers.resync.snapshot_step import disbelief
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, KafkaFailed
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner

log = logging.getLogger("mirrorlog.backup")

_POLL_S: Final = 0.2
_ROUNDS: Final = 5


class PrimaryDevices(Protocol):
    """Opens primaries for reading, as Secondaries does for a site. Each raises DeviceFailed."""

    def find(self, volume: Volume) -> FoundDevice:
        """Look what is at the primary's address. Call it before the others."""
        ...

    def open(self, volume: Volume) -> BlockDevice:
        """Open the primary for reading."""
        ...

    def has_snapshots(self, volume: Volume) -> bool:
        """Return whether take_snapshot() may take one."""
        ...

    def take_snapshot(self, volume: Volume) -> TakenSnapshot:
        """Take a snapshot of the primary."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimarySource:
    """A volume's primary, from which points are taken.

    volume: its description as of now. query: what asking the log needs; its checkpoint is called
    while the log is awaited.
    follow: opens what follows the volume's log. open_staging: returns a device of zeros of a size,
    for what is read of the moving primary.
    wait_s: how long to wait for the log, each time. uses_snapshots: whether to ask for one.
    on_held: called once the point is fixed: what froze the volume's users may let them go on.
    """

    volume: Volume
    primaries: PrimaryDevices
    query: QueryPorts
    follow: Callable[[Volume], AbstractContextManager[FollowedLog]]
    open_staging: Callable[[int], BlockDevice]
    wait_s: float
    uses_snapshots: bool = True
    rounds: int = _ROUNDS
    tasks: TaskRunner = field(default_factory=OneAtATime)
    on_held: Callable[[], None] = lambda: None

    @contextmanager
    def point(self, base: BackupPosition | None) -> Iterator[SourcePoint]:
        """Open a point of the primary, with the changes since `base`, until the block ends.

        A snapshot may break while it is read: reading then raises DeviceFailed. Raise DeviceFailed,
        KafkaFailed, and SourceChanged if the volume isn't the one that it was.
        """
        with ExitStack() as opened:
            followed = opened.enter_context(self.follow(self.volume))
            self._await(followed, lambda: followed.is_ready, "is read")
            self._check_same()
            self.primaries.find(self.volume)
            live = opened.enter_context(self.primaries.open(self.volume))
            point = self._snapshot_point(followed, live, base, opened, lists=base is None)
            yield point or self._live_point(followed, live, base, opened)

    # A snapshot

    def _snapshot_point(
        self,
        followed: FollowedLog,
        live: BlockDevice,
        base: BackupPosition | None,
        opened: ExitStack,
        *,
        lists: bool,
    ) -> SourcePoint | None:
        """Return the point of a snapshot; None if none can be had. `opened` closes it.

        lists: look what is allocated, which must be done before the snapshot. If that is needed and
        wasn't done, another snapshot is taken.
        """
        if not (self.uses_snapshots and self.primaries.has_snapshots(self.volume)):
            return None
        allocated = allocated_end = None
        if lists:
            allocated_end, allocated = self._commands_end(), allocated_blocks(live, self.volume)
        try:
            taken = self.primaries.take_snapshot(self.volume)
        except DeviceFailed as error:
            log.warning("%s: no snapshot of the primary: %s", self.volume.volume, error)
            return None
        self.on_held()
        with ExitStack() as closing_unless_used:
            closing_unless_used.enter_context(taken.device)
            position = taken.export.position
            self._await(
                followed, lambda: followed.watermark >= position, f"is complete through {position}"
            )
            self._check_same()
            reason = disbelief(taken.export, self.volume, followed.history_id, followed.head)
            if reason is not None:
                log.warning("%s: the snapshot isn't used: %s", self.volume.volume, reason)
                return None
            changes, at_us, now = self._changes(position, followed, base, is_consistent=True)
            if isinstance(changes, ChangesKnown) or lists:
                if allocated_end is not None and allocated is not None:
                    allocated |= self._named(followed, after=allocated_end - 1)
                opened.push(closing_unless_used.pop_all())
                return self._point(
                    now,
                    at_us=at_us,
                    reason=None,
                    device=taken.device,
                    changes=changes,
                    allocated=allocated,
                )
        return self._snapshot_point(followed, live, base, opened, lists=True)

    # Live reads

    def _live_point(
        self,
        followed: FollowedLog,
        live: BlockDevice,
        base: BackupPosition | None,
        opened: ExitStack,
    ) -> SourcePoint:
        """Return the point of a copy, which was made while hosts wrote. `opened` closes it."""
        changes, _, _ = self._changes(followed.watermark, followed, base, is_consistent=False)
        is_whole = isinstance(changes, ChangesUnknown)
        copy = opened.enter_context(self.open_staging(self.volume.size_bytes))
        zeroed = BlockSet() if isinstance(changes, ChangesUnknown) else changes.zeroed
        reads = LiveReads(
            volume=self.volume,
            primary=live,
            copy=copy,
            log=followed,
            commands_end=self._commands_end,
            check_same=self._check_same,
            checkpoint=self.query.checkpoint,
            clock=self.query.clock,
            rounds=self.rounds,
            settle_s=self.wait_s,
            tasks=self.tasks,
        )
        done = reads.run(self._first_blocks(changes, live), is_whole=is_whole)
        self.on_held()
        facts = position_facts(self.volume, done.position, self.query)
        if not is_whole:
            zeroed -= done.read
            changes = ChangesKnown(blocks=done.read | zeroed, zeroed=zeroed)
        return self._point(
            self._position(done.position, facts.anchor, followed, is_consistent=not done.reason),
            at_us=facts.at_us,
            reason=done.reason,
            device=copy,
            changes=changes,
            allocated=done.read if is_whole else None,
        )

    def _first_blocks(self, changes: PointChanges, live: BlockDevice) -> BlockSet:
        if isinstance(changes, ChangesKnown):
            return changes.blocks - changes.zeroed
        allocated = allocated_blocks(live, self.volume)
        return BlockSet.of_range(0, self.volume.blocks) if allocated is None else allocated

    # Both

    def _changes(
        self,
        position: int,
        followed: FollowedLog,
        base: BackupPosition | None,
        *,
        is_consistent: bool,
    ) -> tuple[PointChanges, int | None, BackupPosition]:
        """Return what changed between `base` and a position, its time, and the position."""
        facts = position_facts(self.volume, position, self.query)
        now = self._position(position, facts.anchor, followed, is_consistent=is_consistent)
        changes = changes_between(base, now, self.volume, self.query, self.wait_s)
        return changes, facts.at_us, now

    def _position(
        self, position: int, anchor: str | None, followed: FollowedLog, *, is_consistent: bool
    ) -> BackupPosition:
        return BackupPosition(
            position=position,
            generation=self.volume.generation,
            history_id=followed.history_id,
            anchor=anchor,
            is_consistent=is_consistent,
        )

    def _point(
        self,
        position: BackupPosition,
        *,
        at_us: int | None,
        reason: str | None,
        device: BlockDevice,
        changes: PointChanges,
        allocated: BlockSet | None,
    ) -> SourcePoint:
        # The description may be ahead of the log: the volume has grown behind the position.
        volume = self.volume.as_of(position.position)
        if allocated is not None:
            allocated &= BlockSet.of_range(0, volume.blocks)
        return SourcePoint(
            volume=volume,
            position=position,
            at_us=at_us,
            source=PRIMARY,
            reason=reason,
            reader=DeviceReader(device),
            changes=within(changes, volume),
            allocated=None if isinstance(changes, ChangesKnown) else allocated,
        )

    def _named(self, followed: FollowedLog, *, after: int) -> BlockSet:
        """Return the blocks that the log names behind a position; all if it has a hole there."""
        watermark = followed.watermark
        named = followed.changed(after=min(after, watermark), through=watermark)
        return BlockSet.of_range(0, self.volume.blocks) if named is None else named

    def _commands_end(self) -> int:
        return self.query.admin.end_position(self.query.topics.commands, self.volume.partition)

    def _check_same(self) -> None:
        """Raise SourceChanged if the volume isn't the one that it was.

        The node publishes a description before the watermark that covers the command behind it. So
        a look after the log was read tells of all that happened through its watermark. A volume
        that the node meets now gets a history (None before), and keeps its generation.
        """
        self.query.catalog.refresh()
        before, now = self.volume, self.query.catalog.volume_named(self.volume.volume)
        for name in ("generation", "history_id", "size_bytes"):
            if getattr(before, name) not in (getattr(now, name), None):
                raise SourceChanged(
                    f"the volume's {name} changed from {getattr(before, name)} to "
                    f"{getattr(now, name)} while a point of it was taken",
                    where=f"volume {before.volume}",
                    next="Begin the backup again.",
                )

    def _await(self, followed: FollowedLog, is_reached: Callable[[], bool], what: str) -> None:
        until_s = self.query.clock.monotonic_s() + self.wait_s
        while not is_reached():
            self.query.checkpoint()
            followed.poll(_POLL_S)
            if self.query.clock.monotonic_s() > until_s and not is_reached():
                raise KafkaFailed(
                    f"the log wasn't read until it {what} within {self.wait_s:g} s",
                    where=f"volume {self.volume.volume}, partition {self.volume.partition}, "
                    f"complete through {followed.watermark}",
                    next="Check that the broker answers and that the node runs.",
                )
