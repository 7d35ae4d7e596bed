"""From a write's beginning to its command's acknowledgement: the bookkeeping that all open volumes of a session share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from threading import Condition
from typing import Final, TypeVar

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, DeviceFailed, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.producers.batches.batch import (
    Batch,
    ClosedBatch,
    InFlightTuple,
    InFlightWrite,
    Outcomes,
    dirty_regions,
    whole_volume,
)
from mirrorlog.producers.batches.hot_regions import (
    WHOLE_VOLUME,
    DrainFirst,
    FlushFirst,
    HotRegion,
    HotRegions,
    Leave,
    RoomPlan,
    VolumeRegions,
)
from mirrorlog.producers.batches.lock_free_writes import CoarseClock, LockFreeWrites
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.activity_log import ActivityLog
from mirrorlog.producers.forks.fork_calls import ForkPorts
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.forks.forked_secondary import ForkContext
from mirrorlog.producers.forks.forked_volume import ForkedVolume
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.settings import Settings

WHOLE_VOLUME_NOTE: Final = "Kafka was away and the host had no room for addresses"
Entered = TypeVar("Entered")
MAX_EXTENTS: Final = 60_000
"""Of one command: just below a message of 1 MiB."""


@dataclass(slots=True, eq=False)
class OpenVolume:
    """One volume between its SESSION_OPEN and its SESSION_CLOSE. in_flight: by identity, in the order of their beginnings,
    but for those that are on the lock_free.

    failed: why its primary can't be flushed any more, or what the node refused; no write begins from then on.

    widened: regions of which only that they are dirty is known: no command could be kept that names the writes. Until the
    one that marks them is sent, all further writes of the volume go there, too. is_wide: they are the whole volume, and
    writes need no region of their own.

    forks: where its writes go, too (forks.py); none of them begins on the runway then.

    refresh: has `in_flight` and the batch tell what another process writes; see WriteTracker.lend(). batch_extents: its batch
    leaves at that many.
    """

    volume: Volume
    device: BlockDevice
    regions: VolumeRegions
    batch: Batch = field(default_factory=Batch)
    lock_free: LockFreeWrites = field(default_factory=LockFreeWrites)
    in_flight: dict[int, InFlightWrite] = field(default_factory=dict)
    closing: bool = False
    failed: DeviceFailed | BadInput | None = None
    dirty_regions: set[HotRegion] = field(default_factory=set)
    tracks_whole_volume: bool = False
    forks: ForkedVolume | None = None
    refresh: Callable[[], None] = lambda: None
    batch_extents: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return self.volume.volume


@dataclass(slots=True)
class Timers:
    """By the monotonic clock, each in the order of its times: when a volume's open batch got its first extent; when the
    last heartbeat left for a partition in which volumes are open."""

    lingering: dict[str, float] = field(default_factory=dict)
    beaten: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be sent now: the open batches of these volumes, heartbeats for these partitions."""

    batches: Sequence[str]
    heartbeats: Sequence[int]


def due(timers: Timers, now_s: float, linger_s: float, heartbeat_s: float) -> Due:
    """Batches that have lingered, and heartbeats where the last is old enough.

    A heartbeat proves to a site that it read nothing unnamed once it says that a position was acknowledged which was the
    topic's end after the site's last read (VolumeHead.settled_after): of two in a row the second does. Nobody tells the
    host when a site reads, so they go on as long as the session is open.
    """
    return Due(
        list(takewhile(lambda name: now_s - timers.lingering[name] >= linger_s, timers.lingering)),
        list(
            takewhile(
                lambda partition: now_s - timers.beaten[partition] >= heartbeat_s, timers.beaten
            )
        ),
    )


class WriteTracker:
    """Any number of threads may call it. One lock covers all that it keeps; data is written and flushed outside of it. Most
    writes begin and end without the lock: lock_free_writes.py has the protocol.

    While Kafka is away a write that finds no room in the activity log doesn't wait for it, but takes the next rung
    (docs/decisions/host-spool.md): the spool is made durable, so that regions may leave; the volume with the most regions
    counts as dirty as a whole. See make_room() and widen().
    """

    def __init__(
        self,
        log: ActivityLog,
        outbox: Outbox,
        clock: Clock,
        settings: Settings,
        report: Callable[[str], None],
    ) -> None:
        self.lock: Final = outbox.lock
        self.volumes: Final[dict[str, OpenVolume]] = {}
        self.max_write_bytes: Final = settings.region_bytes * settings.hot_regions
        """Writes are cut at multiples of it, so that one write's regions fit in the activity log."""
        self._log: Final = log
        self._outbox: Final = outbox
        self._clock: Final = clock
        self._settings: Final = settings
        self._report: Final = report
        self.region_bytes: Final = settings.region_bytes
        self.batch_extents: Final = settings.host_batch_extents
        self.coarse_clock: Final = CoarseClock(clock.now_us())
        self._hot: Final = HotRegions(settings.hot_regions)
        self._next_use: Final = self._hot.next_use
        self._timers: Final = Timers()
        self._with_dirty_regions: Final[dict[str, OpenVolume]] = {}
        self._attached: Final[dict[str, OpenVolume]] = {}
        self._with_ended: Final[dict[str, OpenVolume]] = {}
        self._forked: Final[dict[str, OpenVolume]] = {}
        self._write_ended: Final = Condition(self.lock)
        outbox.watch_accepts_writes(self._update_all_writable)

    def add_volume(
        self,
        volume: Volume,
        device: BlockDevice,
        forks: ForkPlan | None = None,
        ports: ForkPorts | None = None,
    ) -> OpenVolume:
        """Its SESSION_OPEN is acknowledged: writes may begin. ports: where it is forked."""
        name = volume.volume
        with self.lock:
            opened = OpenVolume(
                volume, device, VolumeRegions(name), failed=self._outbox.rejected.get(name)
            )
            self.volumes[name] = opened
            self._hot.volumes[name] = opened.regions
            self._timers.beaten.setdefault(volume.partition, self._clock.monotonic_s())
            self.coarse_clock.now_us = self._clock.now_us()
            if forks is not None and ports is not None:
                self._attach_forks(opened, forks, ports)
            self._update_writable(opened)
            return opened

    def begin(
        self, opened: OpenVolume, kind: ExtentKind, offset: int, length: int
    ) -> InFlightWrite:
        """A write may touch its data from now on: its regions are durable in the activity log, and it is in flight."""
        size = self.region_bytes
        numbers = range(offset // size, (offset + length - 1) // size + 1)
        if opened.forks is not None:
            with self.lock:
                opened.forks.enter(offset, length)
        try:
            return self._make_hot(
                opened, numbers, partial(self._register, opened, kind, offset, length)
            )
        except BaseException:
            if opened.forks is not None:
                with self.lock:
                    opened.forks.leave(offset, length)
            raise

    def end(
        self,
        opened: OpenVolume,
        flight: InFlightWrite,
        data: Data | None = None,
        *,
        succeeded: bool = False,
    ) -> None:
        """It has ended, well or not: it joins the open batch, which leaves at once where it is full.

        data, landed: of a forked volume, what was written, and whether it has ended well: then it goes to the secondaries,
        and joins the batch when it is known what became of it there. Returns when so many have it as the mode says.
        """
        with self.lock:
            forks, write = opened.forks, None
            if forks is None:
                self._join(opened, flight)
            else:
                write = forks.write_ended(flight, data, succeeded=succeeded)
            if len(opened.batch.writes) >= self.batch_extents:
                self._send(opened)
            if forks is not None and write is not None:
                forks.wait_for_write(write)

    def _join(
        self, opened: OpenVolume, flight: InFlightWrite, outcomes: Outcomes | None = None
    ) -> None:
        regions = opened.regions
        finished = regions.finished = regions.finished + 1
        for region in flight.regions:
            region.in_flight -= 1
            region.last_write = finished
        self._linger(opened, self._clock.monotonic_s())
        opened.batch.add(flight, outcomes)
        del opened.in_flight[id(flight)]
        if opened.closing:
            self._write_ended.notify_all()

    def note_ended(self, opened: OpenVolume) -> None:
        """Something has landed on the runway: the batch leaves at once where it is full, otherwise a tick sees to it."""
        with self.lock:
            opened.lock_free.ended_since_s = self._clock.monotonic_s()
            self._with_ended[opened.name] = opened
            if len(opened.lock_free.ended) >= self.batch_extents:
                self._collect(opened)
                self._send(opened)

    def reject(self, name: str, error: BadInput) -> None:
        """The node refused a command of the volume: what it named stays hot, and no write begins on the volume any more."""
        with self.lock:
            if name in self.volumes:
                self.fail(self.volumes[name], error)

    def flush(self, opened: OpenVolume) -> None:
        """Writes that ended before are durable on the primary. Once that failed no write begins on the volume."""
        with self.lock:
            if opened.failed is not None:
                raise opened.failed
            self._collect(opened)
            finished = opened.regions.finished
        try:
            opened.device.flush()
        except DeviceFailed as error:
            self.fail(opened, error)
            raise
        with self.lock:
            opened.regions.durable = max(finished, opened.regions.durable)

    def flush_all(self, opened: OpenVolume) -> None:
        """flush(), and the same of as many secondaries in the fork as its mode says."""
        forks = opened.forks
        if forks is None or not forks.is_waited_for:
            self.flush(opened)
            return
        with self.lock:
            asked = forks.request_flush()
        self.flush(opened)
        with self.lock:
            forks.wait_for_flushes(asked)

    def fail(self, opened: OpenVolume, error: DeviceFailed | BadInput) -> None:
        """What was written, and not flushed or not recorded, may be lost: it stays hot, and no write begins any more."""
        with self.lock:
            opened.failed = error
            opened.regions.is_stuck = True
            self._update_writable(opened)

    def attach_writer(self, opened: OpenVolume, refresh: Callable[[], None]) -> None:
        """Register another process that writes to the primary from now on.

        refresh: called with the lock held; it updates `in_flight` and the open batch to what that process has written.
        Raise BadUse if the volume is forked: nobody would send those writes to its secondaries.
        """
        if opened.forks is not None:
            raise BadUse(
                "a forked volume is written to by its host alone", where=f"volume {opened.name}"
            )
        opened.batch_extents = self._settings.host_nbd_batch_extents
        with self.lock:
            opened.refresh = refresh
            self._attached[opened.name] = opened

    def detach_writer(self, opened: OpenVolume) -> None:
        """Remove the process that attach_writer() registered: it writes no more."""
        with self.lock:
            opened.refresh = lambda: None
            self._attached.pop(opened.name, None)

    def acquire_regions(self, opened: OpenVolume, numbers: Sequence[int]) -> Sequence[HotRegion]:
        """What stands for these regions in the activity log, durably, until it is given back: another process may begin
        writes in them (nbd/gate.py). One for each; where the volume is dirty as a whole that is the same for all."""
        return self._make_hot(opened, numbers, list)

    @property
    def is_open(self) -> bool:
        """Whether writes may begin, as far as it isn't a single volume's matter: where not, lease() waits, or says why."""
        return self._outbox.accepts_writes

    def release_regions(self, regions: Iterable[HotRegion]) -> None:
        """No write that this volume's `refresh` hasn't told of is in them, and none begins."""
        with self.lock:
            for region in regions:
                region.in_flight -= 1

    def add_ended(
        self,
        opened: OpenVolume,
        ended: Sequence[InFlightTuple],
        regions: Collection[HotRegion],
        since_s: float | None = None,
    ) -> None:
        """Writes that have ended in these regions, the first since `since_s` (now), join the open batch. For `refresh`: the
        lock is held."""
        self._linger(opened, self._clock.monotonic_s() if since_s is None else since_s)
        opened.regions.finished += len(ended)
        opened.batch.writes.extend(ended)
        for region in regions:
            region.last_write = opened.regions.finished
            region.last_use = self._next_use()
            opened.batch.keep_hot(region)

    def collect_attached(self, opened: OpenVolume) -> None:
        """Hears of what another process wrote; the batch leaves at once where it is full."""
        with self.lock:
            opened.refresh()
            if len(opened.batch) >= opened.batch_extents:
                self._send(opened)

    def tick(self, now_s: float) -> None:
        """Sends what is due, and takes acknowledgements."""
        self.coarse_clock.now_us = self._clock.now_us()
        for opened in list(self._attached.values()):
            self.collect_attached(opened)
        for opened in list(self._forked.values()):
            self._advance_forks(opened, now_s)
        with self.lock:
            self._collect_all()
            now = due(
                self._timers, now_s, self._settings.host_linger_s, self._settings.host_heartbeat_s
            )
            for name in now.batches:
                self._send(self.volumes[name])
            self._return_all_to_regions()
            for partition in now.heartbeats:
                self._send_heartbeat(partition)
        self._outbox.poll(0)

    def drain(self) -> None:
        """Everything that ended before is acknowledged when it returns; KafkaFailed when that takes too long."""
        until_s = self._clock.monotonic_s() + 2 * self._outbox.deadline_s
        with self.lock:
            for forked in list(self._forked.values()):
                if forked.forks is not None:
                    forked.forks.settle()
        while True:
            self._send_lingering()
            self._outbox.wait()
            with self.lock:
                if not any(opened.dirty_regions for opened in self._with_dirty_regions.values()):
                    return
                self._return_all_to_regions()
            if self._clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    "what was widened while Kafka was away couldn't be published",
                    next="Is a write stuck?",
                )
            self._outbox.poll(0.01)

    def wait_until_idle(self, opened: OpenVolume) -> None:
        """No write begins any more, and none is in flight when it returns; but for forked ones of which the call hasn't
        returned by the deadline. With these the volume has failed, and its session stays open, as after a crash."""
        with self._write_ended:
            opened.closing = True
            self._update_writable(opened)
            self._collect(opened)
            if opened.forks is not None:
                self._wait_until_forks_idle(opened, opened.forks)
                return
            while opened.in_flight or opened.lock_free.in_flight:
                self._write_ended.wait(
                    0.001 if opened.lock_free.in_flight else None
                )  # those on the runway tell nobody
                self._collect(opened)

    def remove_volumes(self, names: Collection[str]) -> None:
        """Nothing of these volumes is in flight or unpublished: the session has nothing to do with them any more."""
        with self.lock:
            for name in names:
                del self.volumes[name]
                del self._hot.volumes[name]
                self._with_dirty_regions.pop(name, None)
                self._attached.pop(name, None)
                self._with_ended.pop(name, None)
                if (
                    forked := self._forked.pop(name, None)
                ) is not None and forked.forks is not None:
                    forked.forks.close()
                self._timers.lingering.pop(name, None)
            for partition in self._timers.beaten.keys() - self.partitions():
                del self._timers.beaten[partition]

    def abandon(self) -> None:
        """The session ends, as by a crash: no call to a secondary begins any more."""
        with self.lock:
            for forked in self._forked.values():
                if forked.forks is not None:
                    forked.forks.close()

    def partitions(self, *, without: Collection[str] = ()) -> set[int]:
        """Those in which volumes are open, some of them left out."""
        return {
            opened.volume.partition for name, opened in self.volumes.items() if name not in without
        }

    def fall_back_to_whole_volume(self, names: Collection[str]) -> None:
        """These volumes, those of them that are open, are dirty as a whole: of what was to name their writes nothing is
        needed any more.

        1. No write of theirs begins on the lock_free.
        2. The activity log says so, durably; their regions leave it, but for those that writes are in flight in.
        3. From now on their writes need no region of their own.
        """
        opened = [self.volumes[name] for name in names if name in self.volumes]
        kept: dict[str, dict[int, HotRegion]] = {}
        for each in opened:
            each.lock_free.writable = {}  # 1
            self._collect(each)
            kept[each.name] = self._kept(each)
        hot = (
            ActivityEntry(ActivityOp.HOT, name, region=number)
            for name, regions in kept.items()
            for number in regions
        )
        try:
            self._log.append(
                [*(ActivityEntry(ActivityOp.WHOLE_VOLUME, each.name) for each in opened), *hot]
            )  # 2
            for each in opened:
                each.tracks_whole_volume = True  # 3
                self._keep_only_regions(
                    each, each.regions.fall_back_to_whole_volume(kept[each.name])
                )
                if each.forks is not None:
                    each.forks.forget_published()
                self._report(f"volume {each.name} counts as dirty as a whole: {WHOLE_VOLUME_NOTE}")
        finally:
            self._update_all_writable()

    def _make_hot(
        self, opened: OpenVolume, numbers: Sequence[int], then: Callable[[list[HotRegion]], Entered]
    ) -> Entered:
        """Has these regions in the activity log, durably, each with one more in flight, and calls `then` with them."""
        while True:
            with self.lock:
                self._check_writable(opened)
                plan = self._plan(opened, numbers)
                if isinstance(plan, Leave):
                    regions = self._exchange_regions(opened, plan, numbers)
                    if regions is None:
                        continue
                    return then(regions)
            self._make_room(opened, plan, numbers)

    def _register(
        self,
        opened: OpenVolume,
        kind: ExtentKind,
        offset: int,
        length: int,
        regions: Iterable[HotRegion],
    ) -> InFlightWrite:
        flight = InFlightWrite(kind, offset, length, self.coarse_clock.now_us, tuple(regions))
        opened.in_flight[id(flight)] = flight
        return flight

    def _check_writable(self, opened: OpenVolume) -> None:
        self._outbox.check()
        if opened.closing:
            raise BadUse(
                "the volume is closed", where=f"volume {opened.name}", next="Open it again."
            )
        if opened.failed is not None:
            raise opened.failed

    def _plan(self, opened: OpenVolume, numbers: Sequence[int]) -> RoomPlan:
        if opened.tracks_whole_volume:
            return Leave(())
        if not self._outbox.accepts_writes:
            return DrainFirst()
        missing = len(self._hot.missing(opened.regions, numbers))
        if not missing:
            return Leave(())
        self._collect_all()
        busy = {
            name: each.lock_free.regions_in_flight(self.region_bytes)
            for name, each in self._flying()
        }
        return self._hot.plan(opened.regions, numbers, missing, busy)

    def _exchange_regions(
        self, opened: OpenVolume, plan: Leave, numbers: Sequence[int]
    ) -> list[HotRegion] | None:
        """Those leave, these are hot: durable in the activity log. A volume that is dirty as a whole has that in it.

        None where one of those can't leave any more: a write has begun in it.
        """
        whole = opened.regions.whole
        if opened.tracks_whole_volume and whole is not None:
            whole.in_flight += len(numbers)
            return [whole] * len(numbers)
        self._hot.leave(plan.regions)  # C1
        if any(
            region.number in each.lock_free.regions_in_flight(self.region_bytes)
            for region, each in self._left(plan)
        ):
            self._hot.put_back(plan.regions)  # C2
            return None
        missing = self._hot.missing(opened.regions, numbers)
        if missing:
            cool = [
                ActivityEntry(ActivityOp.COOL, region.volume, region=region.number)
                for region in plan.regions
            ]
            self._log.append(
                [
                    *cool,
                    *(
                        ActivityEntry(ActivityOp.HOT, opened.name, region=number)
                        for number in missing
                    ),
                ]
            )  # C3, H1
        return self._hot.begin(opened.regions, numbers)

    def _flying(self) -> list[tuple[str, OpenVolume]]:
        return [(name, each) for name, each in self.volumes.items() if each.lock_free.in_flight]

    def _left(self, plan: Leave) -> list[tuple[HotRegion, OpenVolume]]:
        return [(region, self.volumes[region.volume]) for region in plan.regions]

    def _update_all_writable(self) -> None:
        for opened in self.volumes.values():
            self._update_writable(opened)

    def _update_writable(self, opened: OpenVolume) -> None:
        """Writes may begin on the runway where nothing speaks against it."""
        is_shut = (
            opened.closing
            or opened.failed is not None
            or opened.tracks_whole_volume
            or not self._outbox.accepts_writes
        )
        is_shut = is_shut or opened.forks is not None
        opened.lock_free.writable = {} if is_shut else opened.regions.hot

    def _collect_all(self) -> None:
        for opened in list(self._with_ended.values()):
            self._collect(opened)

    def _collect(self, opened: OpenVolume) -> None:
        """What has landed on the runway joins the open batch."""
        self._with_ended.pop(opened.name, None)
        since_s = opened.lock_free.ended_since_s
        ended = opened.lock_free.take_ended()
        if ended:
            hot, size = opened.regions.hot, self.region_bytes
            regions = [hot[number] for number in {flight[1] // size for flight in ended}]
            self.add_ended(opened, ended, regions, since_s)

    def _make_room(
        self, opened: OpenVolume, plan: FlushFirst | DrainFirst, numbers: Sequence[int]
    ) -> None:
        """While Kafka acknowledges, a write waits for it. While it is away:

        1. Everything unacknowledged is saved in the spool, durably: then regions may leave.
        2. Where that lets none go, because the spool is full or none may stand for a region, the volume with the most
           regions counts as dirty as a whole; or the write fails, if it is asked for.
        """
        if isinstance(plan, FlushFirst):
            for each in self._opened(plan.volumes):
                with suppress(
                    DeviceFailed
                ):  # its regions are stuck; whoever writes to it or flushes it hears of it
                    self.flush(each)
            return
        self._send_lingering()
        is_away = not self._outbox.wait_unless_away()
        with self.lock:
            self._return_all_to_regions()
            if not is_away or not isinstance(self._plan(opened, numbers), DrainFirst):
                return
            if self._outbox.save_to_spool():  # 1
                return
            if self._settings.host_when_full == "widen":
                self.fall_back_to_whole_volume([self._widest(opened)])  # 2
                return
        self._outbox.wait()

    def _widest(self, opened: OpenVolume) -> str:
        """The volume that gives up most regions when it is widened; `opened` where none does: it needs none then."""
        gained = {
            name: len(each.regions.hot) - len(self._kept(each))
            for name, each in self.volumes.items()
        }
        widest = max(gained, key=lambda name: gained[name])
        return widest if gained[widest] else opened.name

    def _kept(self, opened: OpenVolume) -> dict[int, HotRegion]:
        """The regions that must stay: writes are in flight in them, or nothing leaves that volume any more."""
        if opened.regions.is_stuck:
            return opened.regions.hot
        busy = opened.lock_free.regions_in_flight(self.region_bytes)
        return {
            n: region for n, region in opened.regions.hot.items() if region.in_flight or n in busy
        }

    def _opened(self, names: frozenset[str]) -> list[OpenVolume]:
        with self.lock:
            return [self.volumes[name] for name in sorted(names) if name in self.volumes]

    def _send_lingering(self) -> None:
        with self.lock:
            for opened in self._attached.values():
                opened.refresh()
            self._collect_all()
            for name in list(self._timers.lingering):
                self._send(self.volumes[name])

    def _send(self, opened: OpenVolume) -> bool:
        """Closes the batch, names what is in flight, publishes: with the lock held from the first to the last. Whether all
        that the session held for the volume is on its way.

        Where the command finds no room, the regions of its writes are what is kept of them; or the batch stays open, and no
        write begins, where that is asked for.
        """
        opened.refresh()
        self._collect(opened)
        batch = opened.batch
        if opened.dirty_regions:
            self._keep_only_regions(opened)
            return False
        if opened.forks is None:
            now = batch.closed_with(
                [*opened.in_flight.values(), *opened.lock_free.copy_in_flight()]
            )
        else:
            now = opened.forks.closed_batch(
                batch, opened.in_flight.values(), self.coarse_clock.now_us
            )
        if self._outbox.offer(opened.volume, CommandKind.WRITES, now, regions=batch.regions):
            self._start_batch(opened)
            self._note_published(opened)
            return True
        if self._settings.host_when_full == "widen":
            self._keep_only_regions(opened)
        else:
            self._outbox.hold_writes()
        return False

    def _linger(self, opened: OpenVolume, since_s: float) -> None:
        self._timers.lingering.setdefault(opened.name, since_s)

    def _start_batch(self, opened: OpenVolume) -> None:
        opened.batch = Batch()
        self._timers.lingering.pop(opened.name, None)

    def _attach_forks(self, opened: OpenVolume, plan: ForkPlan, ports: ForkPorts) -> None:
        context = ForkContext(
            ports=ports,
            lock=self.lock,
            clock=self._clock,
            settings=self._settings,
            report=self._report,
            on_outcomes_known=partial(self._join, opened),
        )
        opened.forks = ForkedVolume(
            opened.volume,
            plan,
            context,
            known_position=self._outbox.last_positions.get(opened.name, -1),
        )
        self._forked[opened.name] = opened

    def _advance_forks(self, opened: OpenVolume, now_s: float) -> None:
        """What is due at the secondaries; the batch leaves once it is known what became of its writes there."""
        forks = opened.forks
        if forks is None:
            return
        forks.poll(now_s)
        with self.lock:
            forks.tick(
                now_s,
                self._outbox.last_positions.get(opened.name, -1),
                self._outbox.is_acknowledged,
            )
            if forks.take_batch_due() and opened.batch:
                self._send(opened)

    def _wait_until_forks_idle(self, opened: OpenVolume, forks: ForkedVolume) -> None:
        until_s: float | None = None
        while opened.in_flight:
            forks.settle()
            if not opened.in_flight or not forks.are_hung(opened.in_flight.values()):
                forks.wait()
                continue
            if until_s is None:
                until_s = self._clock.monotonic_s() + self._outbox.deadline_s
                self._report(
                    f"volume {opened.name} waits for writes to a secondary that haven't returned"
                )
            if self._clock.monotonic_s() >= until_s:
                error = DeviceFailed(
                    "a write to a secondary hasn't returned, so the session can't be closed",
                    where=f"volume {opened.name}",
                    next="Look at the secondary. When the host starts again, what may be unpublished is published as dirty.",
                )
                self.fail(opened, error)
                return
            forks.wait()

    def _note_published(self, opened: OpenVolume, *, with_held_back: bool = True) -> None:
        if opened.forks is not None:
            opened.forks.published(self._outbox.last_number, with_held_back=with_held_back)

    def _keep_only_regions(self, opened: OpenVolume, *more: HotRegion) -> None:
        """The open batch is forgotten but for its regions: they are widened, and so are `more`."""
        for region in more:
            region.unacknowledged += 1
        for region in (*opened.batch.regions, *more):
            if region in opened.dirty_regions:
                region.unacknowledged -= 1
            else:
                opened.dirty_regions.add(region)
        self._start_batch(opened)
        self._with_dirty_regions[opened.name] = opened

    def _return_all_to_regions(self) -> None:
        for opened in list(self._with_dirty_regions.values()):
            self._return_to_regions(opened)
            if not opened.dirty_regions and opened.regions.whole is None:
                del self._with_dirty_regions[opened.name]

    def _return_to_regions(self, opened: OpenVolume) -> None:
        """One step back, where it can be taken.

        1. Once Kafka is back, MARK_DIRTY of what is widened, and of what is in flight: it names all that is unpublished.
           It is sent once at a time: what was sent before of these regions is acknowledged.
        2. From now on writes are named again, in regions of their own.
        3. When it is acknowledged, and the primary was flushed after the last of these writes, the activity log says
           that the volume isn't dirty as a whole.
        """
        if opened.dirty_regions and self._outbox.can_publish_now:
            opened.refresh()
            self._collect(opened)
            self._keep_only_regions(opened)
            if all(region.unacknowledged == 1 for region in opened.dirty_regions):
                marks, kind = self._marks(opened), CommandKind.MARK_DIRTY
                if self._outbox.offer(
                    opened.volume, kind, marks, note=WHOLE_VOLUME_NOTE, regions=opened.dirty_regions
                ):  # 1
                    opened.dirty_regions, opened.tracks_whole_volume = set(), False
                    self._note_published(opened, with_held_back=False)
                    self._update_writable(opened)  # 2
        whole, durable = opened.regions.whole, opened.regions.durable
        if whole and not (
            opened.tracks_whole_volume
            or whole.in_flight
            or whole.unacknowledged
            or whole.last_write > durable
        ):
            with suppress(DeviceFailed):  # the next write that needs the activity log hears of it
                self._log.append([ActivityEntry(ActivityOp.REGIONS, opened.name)])  # 3
                self._hot.leave([whole])

    def _marks(self, opened: OpenVolume) -> ClosedBatch:
        """In one command: a site that knows of it may believe that nothing before it is unpublished (invariant 8)."""
        numbers, size_bytes = (
            {region.number for region in opened.dirty_regions},
            opened.volume.size_bytes,
        )
        in_flight = [*opened.in_flight.values(), *opened.lock_free.copy_in_flight()]
        if WHOLE_VOLUME in numbers or len(numbers) + len(in_flight) > MAX_EXTENTS:
            return whole_volume(size_bytes)
        return dirty_regions(numbers, self.region_bytes, size_bytes, in_flight)

    def _send_heartbeat(self, partition: int) -> None:
        """Everything that the session holds for any volume of the partition, then the heartbeat, with the lock held. None
        while Kafka is away, or while something is widened or finds no room.

        What it says is acknowledged was so before: another process begins writes without the lock, and an acknowledgement
        that comes while the batches are published may be of a time when such a write had begun that none of them names.
        """
        if not self._outbox.can_publish_now:
            return
        opened = [each for each in self.volumes.values() if each.volume.partition == partition]
        acknowledged = self._outbox.acknowledged_position(partition)
        for each in opened:
            each.refresh()
            self._collect(each)
            holds_back = each.forks is not None and each.forks.holds_back
            is_due = each.batch or each.in_flight or each.lock_free.in_flight or holds_back
            if is_due and not self._send(each):
                return
        if any(each.dirty_regions for each in opened) or not self._outbox.offer_heartbeat(
            partition, acknowledged_position=acknowledged
        ):
            return
        del self._timers.beaten[partition]
        self._timers.beaten[partition] = self._clock.monotonic_s()
