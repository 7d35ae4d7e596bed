"""Forked writes of one volume: to the secondaries in the fork, one queue and one worker each.

The order of a forked write (docs/decisions/forked-writes.md):

1. No other write of its range is on its way to the primary: one that is there already is waited for. So the order in which
   writes end on the primary is an order for every range.
2. It is in flight, and its regions are durable in the activity log (TrackedVolume, steps 1 and 2).
3. The data goes to the primary.
4. With the lock held: it joins the queue of each secondary in the fork; all others have missed it. Where the primary failed,
   all have.
5. Workers write it to the secondaries. The writer waits for as many as the mode says, and is told.
6. When a batch is due, each secondary is flushed by its worker. Only now is it said to have the write.
7. Once that is known for every secondary the write joins the batch, and is in flight no longer.

fork_states.py has the states of a secondary and their rules, fork_plans.py the decisions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Condition, RLock
from typing import Final

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, Data, DeviceOpener
from mirrorlog.producers.batches.batch import Batch, ClosedBatch, InFlightWrite, Outcomes
from mirrorlog.producers.forks.fork_calls import (
    Call,
    CallKind,
    LatestReports,
    SecondaryAddress,
    Workers,
)
from mirrorlog.producers.forks.fork_plans import (
    ForkedWrite,
    ForkPlan,
    ForkStateChange,
    MissedWrites,
    held_back_writes,
    is_queue_full,
    may_join,
    outcomes_of,
    report_of,
    site_started_over_since,
    site_starts_over,
    state_change,
)
from mirrorlog.producers.forks.fork_states import TRANSITIONS, ForkEvent, ForkState
from mirrorlog.settings import Settings

_WAIT_S: Final = 0.05
"""Who waits looks so often whether a secondary hangs."""
_REPORT_INTERVAL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class ForkPorts:
    """The world outside of a forked volume. on_state_change: called, with the lock held, when a secondary's state changes."""

    open_device: DeviceOpener
    workers: Workers
    reports: LatestReports
    on_state_change: Callable[[ForkStateChange], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class ForkContext:
    """What a volume's forks stand on: the tracker's lock, its clock; where news goes, and writes whose outcomes are known."""

    ports: ForkPorts
    lock: RLock
    clock: Clock
    settings: Settings
    report: Callable[[str], None]
    on_outcomes_known: Callable[[InFlightWrite, Outcomes], None]


class ForkedSecondary:
    """One secondary of one volume. The lock covers all of it."""

    def __init__(
        self,
        site: str,
        volume: Volume,
        address: str,
        context: ForkContext,
        blocks_writer: bool,
        known_position: int,
    ) -> None:
        """blocks_writer: the writer waits for each of its writes. known_position: see MissedWrites."""
        self.site: Final = site
        self.state = ForkState.OUT
        self.reason: str | None = None
        self.missed: Final = MissedWrites(known_position)
        self.work: Final = Condition(context.lock)
        self.on_outcome: Callable[[ForkedWrite], None] = lambda _: None
        self._volume: Final = volume
        self._address: Final = SecondaryAddress(
            address, volume.size_bytes, context.ports.open_device
        )
        self._context: Final = context
        self._blocks_writer: Final = blocks_writer
        self._queue: Final[deque[Call]] = deque()
        self._queued_bytes = 0
        self._unflushed: Final[list[ForkedWrite]] = []
        self._current: Call | None = None
        self._device: BlockDevice | None = None
        self._flushes_requested = self._flushes_done = 0
        self._retry_at_s = float("-inf")
        self._joined: SiteProgress | None = None
        self._reported_reason: str | None = None

    @property
    def is_in(self) -> bool:
        """Whether writes go to it."""
        return self.state is ForkState.IN

    @property
    def is_done(self) -> bool:
        """See SecondaryCalls."""
        return self.state is ForkState.CLOSED and self._device is None and self._current is None

    @property
    def open_writes(self) -> int:
        """How many of its outcomes aren't known, about."""
        return len(self._queue) + len(self._unflushed)

    @property
    def queued_bytes(self) -> int:
        """Data that waits for it."""
        return self._queued_bytes

    def enqueue(self, write: ForkedWrite, data: bytes | None) -> None:
        """One more write, behind those that wait."""
        write.open.add(self.site)
        write.unreached.add(self.site)
        self._queued_bytes += len(data or b"")
        self._enqueue(
            Call(CallKind.WRITE, self._context.clock.monotonic_s(), forked_write=write, data=data)
        )

    def request_flush(self) -> int:
        """A flush behind all that waits, if there is anything to flush; its number, for is_flushed()."""
        last = self._queue[-1] if self._queue else self._current
        if last is not None and last.kind is CallKind.FLUSH:
            return last.number
        if last is not None or self._unflushed:
            self._flushes_requested += 1
            self._enqueue(
                Call(
                    CallKind.FLUSH,
                    self._context.clock.monotonic_s(),
                    number=self._flushes_requested,
                )
            )
        return self._flushes_requested

    def is_flushed(self, number: int) -> bool:
        """Whether that flush has returned, and it is in the fork still."""
        return self.is_in and self._flushes_done >= number

    def take(self) -> Call | None:
        """See SecondaryCalls."""
        if self._current is not None:
            return None
        if self.state in (ForkState.OUT, ForkState.CLOSED) and self._device is not None:
            call = Call(CallKind.CLOSE, self._context.clock.monotonic_s())
        elif self._queue:
            call = self._queue.popleft()
        else:
            return None
        call.began_s = self._context.clock.monotonic_s()
        if call.kind is not CallKind.OPEN:
            call.device = self._device
        self._current = call
        return call

    def finish(self, call: Call, failure: str | None) -> None:
        """See SecondaryCalls."""
        self._current = None
        if call.kind is CallKind.OPEN:
            self._device = call.device
        elif call.kind is CallKind.CLOSE:
            self._device = None
        if self.state in (ForkState.OUT, ForkState.HUNG, ForkState.CLOSED):
            self._returned_late(call)
        elif failure is not None:
            self.leave(failure, call.forked_write)
        else:
            self._succeeded(call)
        self.work.notify()

    def _succeeded(self, call: Call) -> None:
        match call.kind:
            case CallKind.OPEN:
                self._change_state(ForkEvent.OPENED)
            case CallKind.WRITE:
                assert call.forked_write is not None
                self._queued_bytes -= len(call.data or b"")
                self._unflushed.append(call.forked_write)
                call.forked_write.unreached.discard(self.site)
                call.forked_write.reached += 1
                self.on_outcome(call.forked_write)
            case CallKind.FLUSH:
                self._flushes_done = call.number
                flushed, self._unflushed[:] = self._unflushed[:], ()
                for write in flushed:
                    write.open.discard(self.site)
                    write.has.add(self.site)
                    self.on_outcome(write)

    def _returned_late(self, call: Call) -> None:
        """A call that nobody waits for any more. What it wrote is named once more."""
        if self.state is ForkState.HUNG:
            self._change_state(ForkEvent.RETURNED, self.reason)
        if call.forked_write is not None:
            call.forked_write.hung.discard(self.site)
            self._miss(call.forked_write)

    def leave(self, reason: str, failed: ForkedWrite | None = None) -> None:
        """It is out of the fork: `failed`, what waits, what isn't flushed and what is under way is missed."""
        call = self._current
        self._change_state(ForkEvent.FAILED if call is None else ForkEvent.GIVEN_UP, reason)
        self._retry_at_s = (
            self._context.clock.monotonic_s() + self._context.settings.host_fork_retry_s
        )
        self._miss_all(failed)

    def _miss_all(self, failed: ForkedWrite | None = None) -> None:
        self.missed.stop_holding_back()
        self._flushes_done = self._flushes_requested  # nobody waits for it any more
        call = self._current
        if call is not None and call.forked_write is not None:
            call.forked_write.hung.add(self.site)
            failed = call.forked_write
        waiting = [call.forked_write for call in self._queue]
        missed = [
            *self._unflushed,
            *([failed] if failed else []),
            *(write for write in waiting if write is not None),
        ]
        self._queue.clear()
        self._unflushed.clear()
        self._queued_bytes = 0
        for write in missed:
            self._miss(write)

    def _miss(self, write: ForkedWrite) -> None:
        write.open.discard(self.site)
        write.unreached.discard(self.site)
        self.missed.add(write.write)
        self.on_outcome(write)

    def expire(self, now_s: float) -> None:
        """Where a call takes too long it is out; or isn't made for so long. In hand is the oldest of all that wait."""
        call = self._current or (self._queue[0] if self._queue else None)
        if call is None or self.state not in (ForkState.OPENING, ForkState.IN):
            return
        took_s = now_s - (
            call.since_s if self._blocks_writer or self._current is None else call.began_s
        )
        if took_s >= self._context.settings.host_fork_timeout_s:
            self.leave(
                f"{call.kind.name.lower()} took longer than {self._context.settings.host_fork_timeout_s:g} s"
            )

    def advance(self, now_s: float, report: SiteProgress | None) -> None:
        """One step further with it, where one can be taken; report: the last of its site."""
        match self.state:
            case ForkState.OUT if now_s >= self._retry_at_s and self._device is None:
                self._change_state(ForkEvent.RETRIED, self.reason)
                self._enqueue(Call(CallKind.OPEN, now_s, address=self._address))
            case ForkState.JOINING if may_join(self.missed, self._volume.generation, report):
                self._joined = report
                self.missed.join()
                self._change_state(ForkEvent.SITE_KNOWS)
            case ForkState.JOINING:
                self.missed.hold_back(self._volume.block_size)
            case ForkState.IN if report is not None and self._joined is not None:
                if site_starts_over(self._volume.generation, report) or site_started_over_since(
                    self._joined, report
                ):
                    self.leave("its site has begun to copy it from nothing")
                self._joined = report

    def close(self) -> None:
        """The volume is closed, or left as by a crash."""
        if self.state is not ForkState.CLOSED:
            self._change_state(ForkEvent.CLOSED)
            self._miss_all()
            self.work.notify()

    def _enqueue(self, call: Call) -> None:
        self._queue.append(call)
        self.work.notify()

    def _change_state(self, event: ForkEvent, reason: str | None = None) -> None:
        before, self.state = self.state, TRANSITIONS[self.state, event]
        self.reason = reason
        change = state_change(
            self._volume.volume, self.site, before, self.state, reason, self._reported_reason
        )
        if change.text is not None:
            self._reported_reason = reason
            self._context.report(change.text)
        self._context.ports.on_state_change(change)


class ForkedVolume:
    """All secondaries of one volume. The lock is held in each call but poll(); a wait lets go of it."""

    def __init__(
        self, volume: Volume, plan: ForkPlan, context: ForkContext, known_position: int
    ) -> None:
        """known_position: the volume's highest acknowledged position; nothing was written in this session yet."""
        self.changed: Final = Condition(context.lock)
        self.is_batch_due = False
        self.secondaries: Final = [
            ForkedSecondary(site, volume, address, context, plan.mode.blocks_writer, known_position)
            for site, address in sorted(plan.secondaries.items())
        ]
        self._volume: Final = volume
        self._mode: Final = plan.mode
        self._context: Final = context
        self._to_primary: Final[list[range]] = []
        self._writes: Final[dict[int, ForkedWrite]] = {}
        self._unflushed_since_s: float | None = None
        self._unflushed_writes = 0
        self._polled_s = float("-inf")
        self._reported_error = ""
        for each in self.secondaries:
            each.on_outcome = self._outcome_changed
            context.ports.workers.serve(each)

    def enter(self, offset: int, length: int) -> None:
        """Returns when no other write of that range is on its way to the primary; from then on this one is."""
        mine = range(offset, offset + length)
        while any(
            mine.start < other.stop and other.start < mine.stop for other in self._to_primary
        ):
            self.wait()
        self._to_primary.append(mine)

    def leave(self, offset: int, length: int) -> None:
        """It isn't any more."""
        self._to_primary.remove(range(offset, offset + length))
        self.changed.notify_all()

    def write_ended(
        self, flight: InFlightWrite, data: Data | None, *, succeeded: bool
    ) -> ForkedWrite:
        """It has ended on the primary, well (`landed`) or not. data: of a write, copied here: the buffer is its caller's."""
        self.leave(flight.offset, flight.length)
        content = bytes(data or b"") if succeeded and flight.kind is ExtentKind.WRITE else None
        write = ForkedWrite(flight, set(), set())
        self._writes[id(flight)] = write
        limit_bytes = self._context.settings.host_fork_queue_bytes
        for each in self.secondaries:
            size_bytes = len(content or b"")
            if (
                each.is_in
                and succeeded
                and is_queue_full(
                    self._mode, each.queued_bytes, each.open_writes, size_bytes, limit_bytes
                )
            ):
                each.leave(f"more than {limit_bytes} bytes, or too many writes, wait for it")
            if each.is_in and succeeded:
                each.enqueue(write, content)
            else:
                each.missed.add(flight)
        self._outcome_changed(write)
        if write.open:
            self._request_flush_when_full()
        return write

    @property
    def is_waited_for(self) -> bool:
        """Whether the mode lets the writer wait for any of them."""
        return self._mode.waits_for > 0

    def wait_for_write(self, write: ForkedWrite) -> None:
        """Returns when as many have it as the mode says, of those in the fork."""
        while not write.satisfies(self._mode):
            self.wait()

    def request_flush(self) -> list[tuple[ForkedSecondary, int]]:
        """Of all in the fork; for wait_for_flushes()."""
        self._unflushed_since_s, self._unflushed_writes = None, 0
        return [(each, each.request_flush()) for each in self.secondaries if each.is_in]

    def wait_for_flushes(self, asked: Sequence[tuple[ForkedSecondary, int]]) -> None:
        """Returns when as many have done it as the mode says, of those in the fork."""
        while True:
            done = sum(each.is_flushed(number) for each, number in asked)
            if done >= min(self._mode.waits_for, sum(each.is_in for each, _ in asked)):
                return
            self.wait()

    def wait(self) -> None:
        """Until something more is known, for a moment at most; then, whether a secondary hangs."""
        self._context.ports.workers.wait(self.changed, _WAIT_S)
        now_s = self._context.clock.monotonic_s()
        for each in self.secondaries:
            each.expire(now_s)

    def settle(self) -> None:
        """Returns when the outcome is known of each write that ended before, but for those that hang."""
        writes = list(self._writes.values())
        self.request_flush()
        while any(write.open for write in writes):
            self.wait()

    def are_hung(self, flights: Collection[InFlightWrite]) -> bool:
        """Whether nothing but calls that hang keeps these in flight."""
        writes = [self._writes.get(id(flight)) for flight in flights]
        return all(write is not None and not write.open for write in writes)

    @property
    def holds_back(self) -> bool:
        """Whether something is to be named with each batch and heartbeat that isn't in flight."""
        return any(each.missed.held_back is not None for each in self.secondaries)

    def closed_batch(
        self, batch: Batch, in_flight: Collection[InFlightWrite], at_us: int
    ) -> ClosedBatch:
        """What a command says."""
        sites_in = [each.site for each in self.secondaries if each.is_in]
        outcomes = [outcomes_of(flight, self._writes, sites_in) for flight in in_flight]
        holding = [
            (each.site, each.missed.held_back)
            for each in self.secondaries
            if each.missed.held_back is not None
        ]
        held = held_back_writes((extent for _, extent in holding), at_us)
        has = [
            {site: ForkOutcome.HAS for site in sites_in if site != holder} for holder, _ in holding
        ]
        return batch.closed_with([*in_flight, *held], [*outcomes, *has])

    def published(self, number: int, *, with_held_back: bool = True) -> None:
        """The command of that number names all that was missed, and all in flight."""
        for each in self.secondaries:
            each.missed.published(number, with_held_back=with_held_back)

    def forget_published(self) -> None:
        """Commands may be lost that named what was missed."""
        for each in self.secondaries:
            each.missed.forget_published()

    def poll(self, now_s: float) -> None:
        """Takes the reports of sites, now and then, without the lock; while Kafka is away what is known stays."""
        if now_s - self._polled_s < _REPORT_INTERVAL_S:
            return
        self._polled_s = now_s
        try:
            self._context.ports.reports.poll()
        except MirrorlogError as error:
            if str(error) != self._reported_error:
                self._reported_error = str(error)
                self._context.report(
                    f"volume {self._volume.volume}: the sites' reports can't be read: {error}"
                )

    def tick(self, now_s: float, position: int, is_acknowledged: Callable[[int], bool]) -> None:
        """What is due: see ForkedSecondary; a flush before the next batch. position: the volume's highest acknowledged one."""
        reports = self._context.ports.reports.of(self._volume.volume)
        for each in self.secondaries:
            each.missed.acknowledged(position, is_acknowledged)
            each.expire(now_s)
            each.advance(now_s, report_of(each.site, reports))
        if (
            self._unflushed_since_s is not None
            and now_s - self._unflushed_since_s >= self._context.settings.host_linger_s
        ):
            self.request_flush()

    def close(self) -> None:
        """No call begins any more but those that let go of the secondaries."""
        for each in self.secondaries:
            each.close()

    def _request_flush_when_full(self) -> None:
        self._unflushed_writes += 1
        if self._unflushed_since_s is None:
            self._unflushed_since_s = self._context.clock.monotonic_s()
        if self._unflushed_writes >= self._context.settings.host_batch_extents:
            self.request_flush()

    def _outcome_changed(self, write: ForkedWrite) -> None:
        """Something more is known of what became of it."""
        if write.is_known and self._writes.pop(id(write.write), None) is not None:
            self.is_batch_due = self.is_batch_due or bool(write.has)
            self._context.on_outcomes_known(write.write, write.outcomes())
        self.changed.notify_all()
