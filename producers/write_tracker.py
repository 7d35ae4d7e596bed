"""From a write's beginning to its command's acknowledgement: the bookkeeping that all open volumes of a session share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Condition
from typing import Final

from mirrorlog.commands import CommandKind
from mirrorlog.errors import BadInput, BadUse, DeviceFailed
from mirrorlog.extents import ExtentKind
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.activity_format import Entry, Op
from mirrorlog.producers.activity_log import ActivityLog
from mirrorlog.producers.batch import Batch, Flight
from mirrorlog.producers.hot_regions import DrainFirst, FlushFirst, HotRegions, Leave, RoomPlan
from mirrorlog.producers.outbox import Outbox
from mirrorlog.settings import Settings
from mirrorlog.volumes import Volume


@dataclass(slots=True, eq=False)
class OpenVolume:
    """One volume between its SESSION_OPEN and its SESSION_CLOSE. in_flight is a set that keeps its order.

    failed: why its primary can't be flushed any more, or what the node refused; no write begins from then on.
    refresh: where another process writes, brings `batch` and `in_flight` up to date; called with the lock held.
    """

    volume: Volume
    device: BlockDevice
    batch: Batch = field(default_factory=Batch)
    in_flight: dict[Flight, None] = field(default_factory=dict)
    closing: bool = False
    failed: DeviceFailed | BadInput | None = None
    refresh: Callable[[], None] = lambda: None

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
        list(takewhile(lambda partition: now_s - timers.beaten[partition] >= heartbeat_s, timers.beaten)),
    )


class WriteTracker:
    """Any number of threads may call it. One lock covers all that it keeps; data is written and flushed outside of it."""

    def __init__(self, log: ActivityLog, outbox: Outbox, clock: Clock, settings: Settings) -> None:
        self.lock: Final = outbox.lock
        self.volumes: Final[dict[str, OpenVolume]] = {}
        self._log: Final = log
        self._outbox: Final = outbox
        self._clock: Final = clock
        self._settings: Final = settings
        self._hot: Final = HotRegions(settings.hot_regions)
        self._timers: Final = Timers()
        self._landed: Final = Condition(self.lock)

    @property
    def most_bytes(self) -> int:
        """Writes are cut at multiples of it, so that one write's regions fit in the activity log."""
        return self._settings.region_bytes * self._settings.hot_regions

    def admit(self, opened: OpenVolume) -> None:
        """Its SESSION_OPEN is acknowledged: writes may begin."""
        with self.lock:
            opened.failed = self._outbox.rejected.get(opened.name)
            self.volumes[opened.name] = opened
            self._hot.admit_volume(opened.name)
            self._timers.beaten.setdefault(opened.volume.partition, self._clock.monotonic_s())

    def begin(self, opened: OpenVolume, kind: ExtentKind, offset: int, length: int) -> Flight:
        """A write may touch its data from now on: its regions are durable in the activity log, and it is in flight."""
        size = self._settings.region_bytes
        numbers = range(offset // size, (offset + length - 1) // size + 1)
        while True:
            with self.lock:
                self._check(opened)
                missing = self._hot.missing(opened.name, numbers)
                plan = self._plan(opened.name, numbers, missing)
                if isinstance(plan, Leave):
                    self._exchange(opened.name, plan, missing)
                    flight = Flight(kind, offset, length, self._clock.now_us(), self._hot.begin(opened.name, numbers))
                    opened.in_flight[flight] = None
                    return flight
            self._make_room(plan)

    def lease(self, opened: OpenVolume, numbers: Sequence[int]) -> list[HotRegion]:
        """The regions, durable in the activity log, where they stay until they are given back: another process may begin
        writes in them (nbd/gate.py)."""
        while True:
            with self.lock:
                self._check(opened)
                missing = self._hot.missing(opened.name, numbers)
                plan = self._plan(opened.name, numbers, missing)
                if isinstance(plan, Leave):
                    self._exchange(opened.name, plan, missing)
                    return self._hot.begin(opened.name, numbers)
            self._make_room(plan)

    def give_back(self, regions: Iterable[HotRegion]) -> None:
        """No write that this volume's `refresh` hasn't told of is in them, and none begins."""
        with self.lock:
            for region in regions:
                region.in_flight -= 1

    def landed(self, opened: OpenVolume, ended: Batch, regions: Collection[HotRegion]) -> None:
        """Writes of another process, which have ended, join the open batch. For `refresh`: the lock is held."""
        self._hot.land(opened.name, len(ended), regions)
        if opened.batch.opened_s is None:
            opened.batch.opened_s = self._timers.lingering[opened.name] = self._clock.monotonic_s()
        opened.batch.extend(ended, regions)

    def gather(self, opened: OpenVolume) -> None:
        """Hears of what another process wrote; the batch leaves at once where it is full."""
        with self.lock:
            opened.refresh()
            if len(opened.batch) >= self._settings.host_batch_extents:
                self._send(opened)

    def fail(self, opened: OpenVolume, error: DeviceFailed) -> None:
        """What was written and not flushed may be lost: it stays hot, and no write begins any more."""
        with self.lock:
            opened.failed = error
            self._hot.stuck.add(opened.name)

    def reject(self, name: str, error: BadInput) -> None:
        """The node refused a command of the volume: what it named stays hot, and no write begins on the volume any more."""
        with self.lock:
            self._hot.stuck.add(name)
            if name in self.volumes:
                self.volumes[name].failed = error

    def end(self, opened: OpenVolume, flight: Flight) -> None:
        """It has ended, well or not: it joins the open batch, which leaves at once where it is full."""
        with self.lock:
            self._hot.end(opened.name, flight.regions)
            if opened.batch.opened_s is None:
                opened.batch.opened_s = self._timers.lingering[opened.name] = self._clock.monotonic_s()
            opened.batch.add(flight)
            del opened.in_flight[flight]
            if opened.closing:
                self._landed.notify_all()
            if len(opened.batch) >= self._settings.host_batch_extents:
                self._send(opened)

    def flush(self, opened: OpenVolume) -> None:
        """Writes that ended before are durable on the primary. Once that failed no write begins on the volume."""
        with self.lock:
            if opened.failed is not None:
                raise opened.failed
            finished = self._hot.finished[opened.name]
        try:
            opened.device.flush()
        except DeviceFailed as error:
            self.fail(opened, error)
            raise
        with self.lock:
            self._hot.durable[opened.name] = max(finished, self._hot.durable[opened.name])

    def tick(self, now_s: float) -> None:
        """Sends what is due, and takes acknowledgements."""
        for opened in list(self.volumes.values()):
            self.gather(opened)
        with self.lock:
            now = due(self._timers, now_s, self._settings.host_linger_s, self._settings.host_heartbeat_s)
            for name in now.batches:
                self._send(self.volumes[name])
            for partition in now.heartbeats:
                self._beat(partition)
        self._outbox.poll(0)

    def drain(self) -> None:
        """Everything that ended before is acknowledged when it returns."""
        with self.lock:
            for opened in self.volumes.values():
                opened.refresh()
            for name in list(self._timers.lingering):
                self._send(self.volumes[name])
        self._outbox.wait()

    def ground(self, opened: OpenVolume) -> None:
        """No write begins any more, and none is in flight when it returns."""
        with self._landed:
            opened.closing = True
            self._landed.wait_for(lambda: not opened.in_flight)

    def dismiss(self, names: Collection[str]) -> None:
        """Nothing of these volumes is in flight or unpublished: the session has nothing to do with them any more."""
        with self.lock:
            self._hot.drop_volumes(names)
            for name in names:
                del self.volumes[name]
                self._timers.lingering.pop(name, None)
            for partition in self._timers.beaten.keys() - self.partitions():
                del self._timers.beaten[partition]

    def partitions(self, *, without: Collection[str] = ()) -> set[int]:
        """Those in which volumes are open, some of them left out."""
        return {opened.volume.partition for name, opened in self.volumes.items() if name not in without}

    def _check(self, opened: OpenVolume) -> None:
        self._outbox.check()
        if opened.closing:
            raise BadUse("the volume is closed", where=f"volume {opened.name}", next="Open it again.")
        if opened.failed is not None:
            raise opened.failed

    def _exchange(self, name: str, plan: Leave, missing: Sequence[int]) -> None:
        """Those leave, these are hot: durable in the activity log."""
        self._hot.leave(plan.regions)
        if missing:
            cool = [Entry(Op.COOL, region.volume, region=region.number) for region in plan.regions]
            self._log.append([*cool, *(Entry(Op.HOT, name, region=number) for number in missing)])

    def _plan(self, name: str, numbers: Sequence[int], missing: Sequence[int]) -> RoomPlan:
        if self._outbox.is_full:
            return DrainFirst()
        return self._hot.plan(name, numbers, len(missing)) if missing else Leave(())

    def _make_room(self, plan: FlushFirst | DrainFirst) -> None:
        if isinstance(plan, DrainFirst):
            self.drain()
            return
        for opened in self._opened(plan.volumes):
            try:
                self.flush(opened)
            except DeviceFailed:
                continue  # its regions are stuck; whoever writes to it, flushes it or closes it hears of it

    def _opened(self, names: frozenset[str]) -> list[OpenVolume]:
        with self.lock:
            return [self.volumes[name] for name in sorted(names) if name in self.volumes]

    def _send(self, opened: OpenVolume) -> None:
        """Closes the batch, names what is in flight, publishes: with the lock held from the first to the last."""
        opened.refresh()
        batch = opened.batch
        closed = batch.closed_with(opened.in_flight)
        self._outbox.send(opened.volume, CommandKind.WRITES, closed, regions=batch.regions)
        opened.batch = Batch()
        self._timers.lingering.pop(opened.name, None)

    def _beat(self, partition: int) -> None:
        """Everything that the session holds for any volume of the partition, then the heartbeat, with the lock held.

        What it says is acknowledged was so before: another process begins writes without the lock, and an acknowledgement
        that comes while the batches are published may be of a time when such a write had begun that none of them names.
        """
        acknowledged = self._outbox.acknowledged_position(partition)
        for opened in self.volumes.values():
            if opened.volume.partition == partition:
                opened.refresh()
                if opened.batch or opened.in_flight:
                    self._send(opened)
        self._outbox.speak_for_all(partition, CommandKind.HEARTBEAT, acknowledged=acknowledged)
        del self._timers.beaten[partition]
        self._timers.beaten[partition] = self._clock.monotonic_s()
