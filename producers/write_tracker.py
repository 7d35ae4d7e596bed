"""From a write's beginning to its command's acknowledgement: the bookkeeping that all open volumes of a session share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition
from typing import Final

from mirrorlog.commands import CommandKind
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.extents import ExtentKind
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.activity_format import Entry, Op
from mirrorlog.producers.activity_log import ActivityLog
from mirrorlog.producers.batch import Batch, Flight
from mirrorlog.producers.hot_regions import DrainFirst, FlushFirst, HotRegions, Leave
from mirrorlog.producers.outbox import Outbox
from mirrorlog.settings import Settings
from mirrorlog.volumes import Volume


@dataclass(slots=True, eq=False)
class OpenVolume:
    """One volume between its SESSION_OPEN and its SESSION_CLOSE. in_flight is a set that keeps its order.

    failed: why its primary can't be flushed any more; no write begins from then on.
    """

    volume: Volume
    device: BlockDevice
    batch: Batch = field(default_factory=Batch)
    in_flight: dict[Flight, None] = field(default_factory=dict)
    closing: bool = False
    failed: DeviceFailed | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.volume.volume


@dataclass(slots=True)
class Timers:
    """By volume, by the monotonic clock, in the order of their times: when its open batch got its first extent; when its
    last command left."""

    lingering: dict[str, float] = field(default_factory=dict)
    commanded: dict[str, float] = field(default_factory=dict)


def due(timers: Timers, now_s: float, linger_s: float, heartbeat_s: float) -> list[str]:
    """The volumes that are to send a command now: their open batch, or a heartbeat where that is empty.

    A command proves to a site that it read nothing unnamed once it says that a position was acknowledged which was the
    topic's end after the site's last read (VolumeHead.settled_after): of two heartbeats the second does. Nobody tells the
    host when a site reads, so heartbeats go on as long as the session is open.
    """
    found: dict[str, None] = {}
    for times_s, wait_s in ((timers.lingering, linger_s), (timers.commanded, heartbeat_s)):
        for volume, since_s in times_s.items():
            if now_s - since_s < wait_s:
                break
            found[volume] = None
    return list(found)


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
            self.volumes[opened.name] = opened
            self._hot.admit_volume(opened.name)
            self._timers.commanded[opened.name] = self._clock.monotonic_s()

    def begin(self, opened: OpenVolume, kind: ExtentKind, offset: int, length: int) -> Flight:
        """A write may touch its data from now on: its regions are durable in the activity log, and it is in flight."""
        size = self._settings.region_bytes
        numbers = range(offset // size, (offset + length - 1) // size + 1)
        while True:
            with self.lock:
                self._check(opened)
                missing = self._hot.missing(opened.name, numbers)
                plan = self._hot.plan(opened.name, numbers, len(missing)) if missing else Leave(())
                if isinstance(plan, Leave):
                    self._exchange(opened.name, plan, missing)
                    flight = Flight(kind, offset, length, self._clock.now_us(), self._hot.begin(opened.name, numbers))
                    opened.in_flight[flight] = None
                    return flight
            self._make_room(plan)

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
            with self.lock:
                opened.failed = error
                self._hot.stuck.add(opened.name)
            raise
        with self.lock:
            self._hot.durable[opened.name] = max(finished, self._hot.durable[opened.name])

    def tick(self, now_s: float) -> None:
        """Sends what is due, and takes acknowledgements."""
        with self.lock:
            for name in due(self._timers, now_s, self._settings.host_linger_s, self._settings.host_heartbeat_s):
                self._send(self.volumes[name])
        self._outbox.poll(0)

    def drain(self) -> None:
        """Everything that ended before is acknowledged when it returns."""
        with self.lock:
            for name in list(self._timers.lingering):
                self._send(self.volumes[name])
        self._outbox.wait()

    def ground(self, opened: OpenVolume) -> None:
        """No write begins any more, and none is in flight when it returns."""
        with self._landed:
            opened.closing = True
            self._landed.wait_for(lambda: not opened.in_flight)

    def dismiss(self, opened: OpenVolume) -> None:
        """Nothing of the volume is in flight or unpublished: the session has nothing to do with it any more."""
        with self.lock:
            del self.volumes[opened.name]
            self._hot.drop_volume(opened.name)
            self._timers.lingering.pop(opened.name, None)
            self._timers.commanded.pop(opened.name, None)

    def _check(self, opened: OpenVolume) -> None:
        self._outbox.check()
        if opened.closing:
            raise BadUse("the volume is closed", where=f"volume {opened.name}", next="Open it again.")
        if opened.failed is not None:
            raise opened.failed

    def _exchange(self, name: str, plan: Leave, missing: Sequence[int]) -> None:
        """Those leave, these are hot: durable in the activity log."""
        self._hot.leave(plan.regions)
        for region in plan.regions:
            self._log.later(Entry(Op.COOL, region.volume, region=region.number))
        if missing:
            self._log.append([Entry(Op.HOT, name, region=number) for number in missing])

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
        batch = opened.batch
        closed = batch.closed_with(opened.in_flight)
        kind = CommandKind.WRITES if len(closed.extents) else CommandKind.HEARTBEAT
        self._outbox.send(opened.volume, kind, closed, on_acknowledged=batch.acknowledged)
        opened.batch = Batch()
        self._timers.lingering.pop(opened.name, None)
        self._timers.commanded.pop(opened.name, None)
        self._timers.commanded[opened.name] = self._clock.monotonic_s()
