"""A model of nbdkit's filter that forks its writes (nbd/fork_state.h), one step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
from clocks import CountingClock
from forking import Marked

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import Data
from mirrorlog.producers.batches.batch import InFlightWrite
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.forks.fork_calls import ForkedDevice
from mirrorlog.producers.forks.fork_links import LinkState
from mirrorlog.producers.forks.fork_plans import ForkMode
from mirrorlog.producers.forks.forked_write import is_queue_full
from mirrorlog.producers.writes.tracked_volume import TrackedVolume


@dataclass(eq=False)
class Slot:
    """A write that has begun. number: None until it has ended on the primary."""

    write: InFlightWrite
    data: bytes | None
    regions: list[HotRegion]
    number: int | None = None


@dataclass(eq=False)
class ModelLink:
    """SecondaryLink to the model, and the thread that writes to the secondary."""

    model: FilterModel
    site: str
    is_in: bool = False
    failure: str | None = None
    joined: int = 0
    left: int = 0
    reached: int = 0
    flushed: int = 0
    device: ForkedDevice | None = None
    queue: deque[tuple[int, InFlightWrite, bytes | None]] = field(default_factory=deque)
    running: list[tuple[int, InFlightWrite, bytes | None]] = field(default_factory=list)
    done: int = 0
    is_half: bool = False
    stuck_until_s: float = 0.0

    @property
    def is_gone(self) -> bool:
        return self.model.is_gone

    @property
    def is_idle(self) -> bool:
        return not self.queue and not self.running

    def look(self) -> LinkState:
        busy = range(self.running[0][0], self.running[-1][0] + 1) if self.running else range(0)
        return LinkState(
            is_in=self.is_in,
            is_idle=self.is_idle,
            failure=None if self.is_in else self.failure,
            next=self.model.next,
            joined=self.joined,
            left=self.left,
            reached=self.reached,
            busy=busy,
            has_file=self.device is not None,
        )

    def join(self, ends: int | None) -> bool:
        if self.model.random.random() < 0.5:
            self.model.end_parked()
        if self.device is None or not self.is_idle or self.is_in:
            return False
        if ends is not None and ends != self.model.ended:
            return False
        self.is_in, self.failure = True, None
        self.joined = self.reached = self.flushed = self.model.next
        return True

    def ends(self) -> int:
        return self.model.ended

    def leave(self, failure: str | None = None) -> None:
        if self.is_in:
            self.is_in, self.left, self.failure = False, self.model.next, failure

    def note_flushed(self, number: int) -> None:
        self.flushed = number

    def send_file(self, device: ForkedDevice) -> None:
        assert self.device is None and self.is_idle
        self.device = device

    def take_file(self) -> None:
        assert self.is_idle and not self.is_in
        self.device = None

    def enqueue(self, number: int, write: InFlightWrite, data: bytes | None) -> None:
        if is_queue_full(
            self.model.mode,
            queued_bytes=sum(len(data or b"") for _, _, data in self.queue),
            open_writes=number - self.flushed,
            size_bytes=len(data or b""),
            limit_bytes=self.model.limit_bytes,
        ):
            self.leave("full")
        else:
            self.queue.append((number, write, data))

    def step(self) -> bool:
        """Do one step of F3. Return False if there is nothing to do."""
        model = self.model
        if not self.is_in:
            self.queue.clear()
        if not self.running:
            while self.queue and len(self.running) < 3:
                self.running.append(self.queue.popleft())
            self.done = 0
            return bool(self.running)
        if model.clock.now_s < self.stuck_until_s:
            return False
        failure = None
        if not model.is_calm and model.random.random() < 0.03:
            if model.random.random() < 0.5:
                self.stuck_until_s = model.clock.now_s + model.random.randint(1, 30) / 10
                return True
            failure = "planned"
        elif self.is_half or self.is_in:
            failure = self.go_on()
            if failure == "":
                return True
        if failure is None and self.is_in and self.done < len(self.running):
            return True
        last = self.running[self.done - 1][0] if self.done else None
        self.running.clear()
        self.is_half = False
        if self.is_in and last is not None:
            self.reached = last + 1
        if failure is not None:
            self.leave(failure)
        return True

    def go_on(self) -> str | None:
        """Write a part of the next write. Return "" if more of it follows, or why it failed."""
        _, write, data = self.running[self.done]
        assert self.device is not None
        self.model.steps("before a write to a secondary")
        try:
            if data is None:
                self.device.zero(offset=write.offset, length=write.length)
            elif not self.is_half:
                self.device.pwrite(write.offset, data[: len(data) // 2])
                self.is_half = True
                return ""
            else:
                self.device.pwrite(write.offset, data)
        except DeviceFailed as error:
            return str(error)
        self.is_half = False
        self.done += 1
        return None

    def copied(self, world: Any) -> ModelLink:
        """Return what can still die in a copy of the world, with `random` and `disks` by site."""
        device = self.device
        if device is not None:
            assert isinstance(device, Marked)
            device = device.on_copy(world.disks[self.site])
        return replace(self, model=world, device=device)

    def die(self) -> None:
        """Finish the running write or not, as a kernel may while the process dies."""
        if self.device is not None and self.done < len(self.running):
            _, write, data = self.running[self.done]
            if data is not None and self.model.random.random() < 0.5:
                with suppress(DeviceFailed):
                    self.device.pwrite(write.offset, data)


class FilterModel:
    """Writes to the primary of a forked volume, and to its secondaries, as the filter does.

    write_at_once: writes to the primary while nothing else happens. wait: lets the rest of the
    world go on. steps: called at each step; it may raise.
    """

    def __init__(
        self,
        volume: TrackedVolume,
        mode: ForkMode,
        *,
        random: Random,
        clock: CountingClock,
        limit_bytes: int,
        is_calm: bool,
        write_at_once: Callable[[int, bytes], None],
        steps: Callable[[str], None],
        wait: Callable[[], None],
    ) -> None:
        self.tracker, self.opened = volume.tracker_and_volume
        self.writers = self.tracker.attached_writers
        self.mode, self.random, self.clock = mode, random, clock
        self.limit_bytes, self.is_calm, self.steps, self.wait = limit_bytes, is_calm, steps, wait
        self.write_at_once = write_at_once
        self.next, self.ended = 1, 0
        self.is_gone = False
        self.slots: list[Slot] = []
        self.parked: Slot | None = None
        self.named: dict[int, InFlightWrite] = {}
        assert self.opened.forks is not None
        self.links = {s.site: ModelLink(self, s.site) for s in self.opened.forks.secondaries}
        self.writers.attach_writer(self.opened, self.collect, self.links)

    def begin(self, kind: ExtentKind, *, offset: int, length: int, data: Data | None) -> Slot:
        """Do W1 to W3, after a parked write of the range has ended (F1)."""
        parked = self.parked
        if parked is not None and (
            offset < parked.write.offset + parked.write.length
            and parked.write.offset < offset + length
        ):
            self.end_parked()
        size = self.tracker.region_bytes
        numbers = list(range(offset // size, (offset + length - 1) // size + 1))
        regions = list(self.writers.acquire_regions(self.opened, numbers))
        unique = list({id(region): region for region in regions}.values())
        write = InFlightWrite(kind, offset, length, self.clock.now_us(), tuple(unique))
        slot = Slot(write, None if data is None else bytes(data), regions)
        self.slots.append(slot)
        self.steps("begun")
        return slot

    def write(self, kind: ExtentKind, *, offset: int, length: int, data: Data | None) -> None:
        """Do a write, to its acknowledgement. data: None writes zeros."""
        slot = self.begin(kind, offset=offset, length=length, data=data)
        number = 0
        try:
            number = self.to_primary(slot)
        finally:
            if slot.number is None:
                self.end(slot, failed=True)
        while not self.is_satisfied(number):
            self.wait()

    def park(self, *, offset: int, data: bytes) -> None:
        """Begin a write that ends at some other moment."""
        if self.parked is None:
            self.parked = self.begin(ExtentKind.WRITE, offset=offset, length=len(data), data=data)

    def end_parked(self) -> None:
        """End the parked write."""
        slot, self.parked = self.parked, None
        if slot is not None:
            assert slot.data is not None
            self.write_at_once(slot.write.offset, slot.data)
            self.end(slot, failed=False)

    def to_primary(self, slot: Slot) -> int:
        """Do W4 and F2. Return the write's number."""
        if slot.data is None:
            self.opened.device.zero(offset=slot.write.offset, length=slot.write.length)
        else:
            self.opened.device.pwrite(slot.write.offset, memoryview(slot.data))
        return self.end(slot, failed=False)

    def end(self, slot: Slot, *, failed: bool) -> int:
        """Do F2."""
        slot.number = 0 if failed else self.next
        if not failed:
            self.next += 1
            for link in self.links.values():
                if link.is_in:
                    link.enqueue(slot.number, slot.write, slot.data)
        self.ended += 1
        return slot.number

    def is_satisfied(self, number: int) -> bool:
        """Return whether F4 is over."""
        among = [link for link in self.links.values() if link.is_in and link.joined <= number]
        reached = sum(link.reached > number for link in among)
        return reached == len(among) or reached >= self.mode.waits_for

    def collect(self) -> None:
        """Give the tracker what has ended, and what is in flight (B1)."""
        ended = [slot for slot in self.slots if slot.number is not None or self.is_gone]
        self.slots = [slot for slot in self.slots if slot.number is None and not self.is_gone]
        if ended:
            regions = {id(r): r for slot in ended for r in slot.write.regions}.values()
            numbers = np.array([slot.number or 0 for slot in ended], np.uint64)
            self.writers.add_ended(
                self.opened, [slot.write._replace() for slot in ended], list(regions), numbers
            )
            for slot in ended:
                self.writers.release_regions(slot.regions)
        now = {id(slot.write): slot.write for slot in self.slots}
        self.writers.replace_in_flight(self.opened, self.named, now)
        self.named = now

    def stop(self, tick: Callable[[], Any]) -> None:
        """Stop nbdkit: its clients have left, and its queues are drained for a while."""
        self.end_parked()
        for _ in range(200):
            if all(link.is_idle for link in self.links.values()):
                break
            tick()
        for link in self.links.values():
            link.die()
        self.is_gone = True
        with self.tracker.lock:
            self.collect()
        self.writers.detach_writer(self.opened)
