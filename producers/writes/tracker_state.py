"""What the parts of a session's write tracker share: its open volumes, and one lock for all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from threading import Condition, RLock
from typing import Final

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, DeviceFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.task_runner import TaskRunner
from mirrorlog.producers.batches.batch import Batch, InFlightTuple
from mirrorlog.producers.batches.hot_regions import HotRegion, HotRegions, VolumeRegions
from mirrorlog.producers.batches.idle_regions import RecentUses
from mirrorlog.producers.batches.lock_free_writes import CoarseClock, LockFreeWrites
from mirrorlog.producers.batches.look_ahead import RegionLookAhead
from mirrorlog.producers.durable.activity_log import ActivityLog
from mirrorlog.producers.forks.forked_volume import ForkedVolume
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.producers.writes.background_jobs import BackgroundJobs
from mirrorlog.producers.writes.timers import Timers
from mirrorlog.settings import Settings


@dataclass(slots=True, eq=False)
class OpenVolume:
    """One volume between its SESSION_OPEN and its SESSION_CLOSE.

    look_ahead: which regions become hot ahead of its writes.
    lock_free: its writes that take no lock. in_flight: all other writes that have begun and not
    ended, by identity, in the order in which they began. A forked write ends when its outcomes are
    known.
    closing: no write may begin any more. failed: why none may: the primary can't be flushed, or
    the node refused a command.
    dirty_regions: regions that are only known to be dirty, because no command could be kept that
    names their writes. Until a command marks them dirty, all further writes of the volume go there.
    tracks_whole_volume: `dirty_regions` is the whole volume, and a write needs no region of its
    own. dirty_note: why the regions are dirty.
    forks: the secondaries that its writes go to. If a write waits for them, none is lock-free.
    collect_attached: takes what an attached writer has written (attached_writers.py).
    attached_batch_extents: with an attached writer, the batch is sent at this number of extents.
    flush_lock: held by the call that flushes the primary. flushes_begun: how many flushes have
    begun. last_flush: the number of the last one of them that succeeded (primary_flush.py).
    """

    volume: Volume
    device: BlockDevice
    regions: VolumeRegions
    batch: Batch = field(default_factory=Batch)
    look_ahead: RegionLookAhead = field(default_factory=RegionLookAhead)
    lock_free: LockFreeWrites = field(default_factory=LockFreeWrites)
    in_flight: dict[int, InFlightTuple] = field(default_factory=dict)
    closing: bool = False
    failed: DeviceFailed | BadInput | None = None
    dirty_regions: set[HotRegion] = field(default_factory=set)
    tracks_whole_volume: bool = False
    dirty_note: str = ""
    forks: ForkedVolume | None = None
    collect_attached: Callable[[], None] = lambda: None
    attached_batch_extents: int = 0
    flush_lock: RLock = field(default_factory=RLock)
    flushes_begun: int = 0
    last_flush: int = 0

    @property
    def name(self) -> str:
        """The volume's name."""
        return self.volume.volume


class TrackerState:
    """The open volumes of a session. Only the modules of this package change it.

    lock: covers everything here but `coarse_clock`. It is the outbox's. Data is written and flushed
    without it.
    write_ended: notified when a write of a closing volume ends.
    is_flushing_in_background: a job flushes primaries (primary_flush.py).
    admissions: what is in make_hot() now, by identity: a volume's name, and numbers of its regions.
    Each thread adds and removes its own, without the lock.
    with_ended, with_dirty_regions, attached, forked: the volumes that have lock-free writes to
    collect, are or were dirty regions, have an attached writer, have forks.
    """

    def __init__(
        self,
        log: ActivityLog,
        outbox: Outbox,
        clock: Clock,
        settings: Settings,
        report: Callable[[str], None],
        *,
        allows_lock_free: bool,
        jobs: BackgroundJobs,
        flushes: TaskRunner,
    ) -> None:
        """Create the state of a tracker without volumes.

        allows_lock_free: writes may begin without the lock (lock_free_writes.py). jobs: where
        primaries are flushed that no writer waits for. flushes: runs the flushes that one writer
        waits for.
        """
        self.jobs: Final = jobs
        self.flushes: Final = flushes
        self.is_flushing_in_background = False
        self.lock: Final = outbox.lock
        self.log: Final = log
        self.outbox: Final = outbox
        self.clock: Final = clock
        self.settings: Final = settings
        self.report: Final = report
        self.coarse_clock: Final = CoarseClock(clock.now_us())
        self.volumes: Final[dict[str, OpenVolume]] = {}
        self.hot: Final = HotRegions(settings.hot_regions)
        self.recent_uses: Final = RecentUses(settings.host_region_idle_s)
        self.timers: Final = Timers()
        self.write_ended: Final = Condition(self.lock)
        self.admissions: Final[dict[int, tuple[str, Sequence[int]]]] = {}
        self.with_ended: Final[dict[str, OpenVolume]] = {}
        self.with_dirty_regions: Final[dict[str, OpenVolume]] = {}
        self.attached: Final[dict[str, OpenVolume]] = {}
        self.forked: Final[dict[str, OpenVolume]] = {}
        self._allows_lock_free: Final = allows_lock_free
        outbox.watch_accepts_writes(self.update_all_writable)

    def update_writable(self, opened: OpenVolume) -> None:
        """Let writes of the volume begin without the lock, unless something forbids it.

        Call it with the lock held after each change of what it looks at.
        """
        is_forbidden = (
            not self._allows_lock_free
            or opened.closing
            or opened.failed is not None
            or opened.tracks_whole_volume
            or (opened.forks is not None and opened.forks.is_waited_for)
            or not self.outbox.accepts_writes
        )
        opened.lock_free.writable = {} if is_forbidden else opened.regions.hot

    def update_all_writable(self) -> None:
        """Call update_writable() for every volume."""
        for opened in self.volumes.values():
            self.update_writable(opened)

    def check_writable(self, opened: OpenVolume) -> None:
        """Raise why no write of the volume may begin any more. Call it with the lock held.

        Raise BadUse if the volume is closed; what `failed` or Outbox.check() says.
        """
        self.outbox.check()
        if opened.closing:
            raise BadUse(
                "the volume is closed", where=f"volume {opened.name}", next="Open it again."
            )
        if opened.failed is not None:
            raise opened.failed

    def fail(self, opened: OpenVolume, error: DeviceFailed | BadInput) -> None:
        """Let no write of the volume begin any more. Its regions stay in the activity log.

        What was written, and isn't flushed or recorded, may be lost.
        """
        with self.lock:
            opened.failed = error
            opened.regions.is_stuck = True
            self.update_writable(opened)

    def partitions(self, *, without: Collection[str] = ()) -> set[int]:
        """Return the partitions in which volumes are open, except for those `without`."""
        return {
            opened.volume.partition for name, opened in self.volumes.items() if name not in without
        }
