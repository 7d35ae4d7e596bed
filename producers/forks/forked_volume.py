"""All secondaries of one forked volume.

The order of a forked write (docs/decisions/forked-writes.md):

1. The write waits until no other write of its range is on its way to the primary. So the order in
   which writes end on the primary is an order for every range.
2. Its regions are durable in the activity log, and it is in flight (TrackedVolume._change, steps
   1 and 2).
3. The data goes to the primary.
4. With the lock held, the write joins the queue of each secondary in the fork. All others have
   missed it. If the primary failed, all secondaries have missed it.
5. Workers write it to the secondaries. The writer waits for as many as the mode requires, and
   returns.
6. When a batch is due, the worker of each secondary flushes it. Only then does the secondary count
   as having the write.
7. Once the outcome is known for every secondary, the write joins the batch. It is no longer in
   flight.

If the mode makes no writer wait (`async`), a write inside one hot region takes no lock
(batches/lock_free_writes.py, F1 to F3). Those that have ended are collected before anything else is
done with the lock that needs their order, or changes a state (step 4). They then have one fate.

With an attached writer (nbdkit's filter), another process does steps 1 and 3 to 5 (fork_links.py).
The host collects its writes with their numbers, and does steps 6 and 7 (linked_writes.py).

fork_states.py has the states of a secondary and their rules, missed_writes.py the rule by which it
joins again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Condition
from typing import Final

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.devices import Data
from mirrorlog.producers.batches.batch import Batch, ClosedBatch, InFlightTuple, InFlightWrite
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.batches.lock_free_writes import LockFreeWrites
from mirrorlog.producers.forks.fork_links import SecondaryLink
from mirrorlog.producers.forks.fork_plans import ForkMode, ForkPlan
from mirrorlog.producers.forks.fork_spans import WriteFate, WriteNumbers, is_missed
from mirrorlog.producers.forks.forked_secondary import (
    ForkContext,
    ForkedSecondary,
    size_of,
)
from mirrorlog.producers.forks.forked_write import (
    ForkedWrites,
    held_back_writes,
    is_queue_full,
    outcomes_in_flight,
)
from mirrorlog.producers.forks.linked_writes import KnownWrites, LinkedWrites
from mirrorlog.producers.forks.missed_writes import report_of

_WAIT_S: Final = 0.05
"""The interval at which a waiting writer checks whether a secondary hangs."""
_LOCK_FREE_WAIT_S: Final = 0.001
"""The interval at which a waiting writer looks for lock-free writes, which notify nobody."""
_REPORT_INTERVAL_S: Final = 0.2


class ForkedVolume:
    """The secondaries of one volume.

    Every method but poll() needs the tracker's lock. A method that waits releases it meanwhile.
    """

    def __init__(
        self,
        volume: Volume,
        plan: ForkPlan,
        context: ForkContext,
        lock_free: LockFreeWrites,
        *,
        known_position: int,
    ) -> None:
        """Start a worker for each secondary of the plan. All are out of the fork at first.

        lock_free: the volume's lock-free writes. known_position: the volume's highest acknowledged
        position. Nothing may have been written in this session yet.
        """
        self.changed: Final = Condition(context.lock)
        self.secondaries: Final = [
            ForkedSecondary(
                site,
                volume,
                address,
                context,
                blocks_writer=plan.mode.blocks_writer,
                known_position=known_position,
                on_outcome=self._outcome_changed,
            )
            for site, address in sorted(plan.secondaries.items())
        ]
        self._volume: Final = volume
        self._mode: Final = plan.mode
        self._context: Final = context
        self._lock_free: Final = lock_free
        self._to_primary: Final[list[range]] = []
        self._writes: Final[dict[int, ForkedWrites]] = {}
        self._unflushed_since_s: float | None = None
        self._unflushed_writes = 0
        self._is_batch_due = False
        self._polled_s = float("-inf")
        self._poll_reports = RetryReports()
        self._linked: LinkedWrites | None = None
        self._link: SecondaryLink | None = None
        self._collect_linked: Callable[[], None] = lambda: None
        self._on_known: Callable[[KnownWrites], None] = lambda _: None
        self._linked_extents = 0
        for secondary in self.secondaries:
            context.ports.workers.serve(secondary)

    def describe(self, volume: Volume) -> None:
        """Take a new description of the volume."""
        for secondary in self.secondaries:
            secondary.describe(volume)

    def enter(self, *, offset: int, length: int) -> None:
        """Begin the write of [offset, offset + length) to the primary.

        Wait first until no other write that overlaps it is on its way there. From step 2 on, no
        lock-free write that overlaps it begins (F1).

        1. Wait for the writes that took the lock.
        2. Claim the range.
        3. Wait for the lock-free writes, which wait for nobody.
        """
        entering = range(offset, offset + length)
        while any(
            entering.start < other.stop and other.start < entering.stop
            for other in self._to_primary
        ):
            self.wait()  # 1
        self._to_primary.append(entering)
        self._lock_free.claimed[id(entering)] = (offset, length)  # 2
        while self._lock_free.overlaps_to_primary(offset=offset, length=length):
            self._context.ports.workers.wait(self.changed, _LOCK_FREE_WAIT_S)  # 3

    def leave(self, *, offset: int, length: int) -> None:
        """End the write of [offset, offset + length) to the primary; wake writers that overlap it.

        Raise ValueError unless enter() was called with the same range.
        """
        left = self._to_primary.pop(self._to_primary.index(range(offset, offset + length)))
        del self._lock_free.claimed[id(left)]
        self.changed.notify_all()

    def write_ended(
        self, write: InFlightWrite, data: Data | None, *, succeeded: bool
    ) -> ForkedWrites:
        """Send a write that has ended on the primary to the secondaries in the fork.

        The lock-free writes that ended before it are collected.
        data: what a WRITE has written. It is copied here, because the buffer is the caller's.
        succeeded: the primary has the write. If it doesn't, every secondary misses it.
        """
        self.leave(offset=write.offset, length=write.length)
        content = bytes(data or b"") if write.kind is ExtentKind.WRITE else None
        return self.writes_ended([write], write.regions, [content] if succeeded else None)

    def writes_ended(
        self,
        writes: Sequence[InFlightTuple],
        regions: Sequence[HotRegion],
        contents: Sequence[bytes | None] | None,
    ) -> ForkedWrites:
        """Send writes to the secondaries in the fork; `writes` are in the order of their end.

        regions: see ForkedWrites. contents: the data of each, None for zeros; or None if the
        primary doesn't have the writes, and every secondary misses them.
        """
        forked = ForkedWrites(writes, regions)
        self._writes.update(dict.fromkeys(map(id, writes), forked))
        for secondary in self.secondaries:
            if contents is not None and secondary.is_in:
                self._make_room(secondary, size_of(contents))
            if contents is not None and secondary.is_in:
                secondary.enqueue(forked, contents)
            else:
                secondary.missed.add(writes[-1])
        self._outcome_changed(forked)
        if forked.open:
            self._request_flush_when_full(len(writes), self._context.settings.host_batch_extents)
        return forked

    def _make_room(self, secondary: ForkedSecondary, size_bytes: int) -> None:
        """Let the secondary leave the fork if it has no room for writes of this size."""
        limit_bytes = self._context.settings.host_fork_queue_bytes
        if is_queue_full(
            self._mode,
            queued_bytes=secondary.queued_bytes,
            open_writes=secondary.open_writes,
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        ):
            secondary.leave_fork(f"more than {limit_bytes} bytes, or too many writes, wait for it")

    @property
    def mode(self) -> ForkMode:
        """The mode of the fork."""
        return self._mode

    def attach_writer(
        self,
        links: Mapping[str, SecondaryLink],
        collect: Callable[[], None],
        on_known: Callable[[KnownWrites], None],
        *,
        batch_extents: int,
    ) -> None:
        """Let another process fork the writes from now on. Nothing may have been written yet.

        links: one for each secondary, by site. collect: calls add_linked() with all writes that
        have ended. on_known: takes writes whose outcomes are known. batch_extents: a flush is
        requested when so many writes aren't flushed.
        """
        for secondary in self.secondaries:
            secondary.attach_writer(links[secondary.site], self._spans_changed)
        self._link = next(iter(links.values()), None)
        self._collect_linked, self._on_known, self._linked_extents = (
            collect,
            on_known,
            batch_extents,
        )
        self._linked = LinkedWrites(
            {secondary.site: secondary.spans for secondary in self.secondaries}, self._take_known
        )

    @property
    def is_linked(self) -> bool:
        """Return whether another process forks the writes."""
        return self._linked is not None

    def add_linked(
        self, writes: list[InFlightTuple], numbers: WriteNumbers, regions: Collection[HotRegion]
    ) -> None:
        """Add writes of the other process that have ended on the primary.

        They are in flight until on_known() takes them. regions: those that they lie in, or more.
        """
        assert self._linked is not None
        fates = self._linked.add(writes, numbers, regions)
        for secondary in self.secondaries:
            of_site = fates[secondary.site]
            missed = is_missed(of_site).nonzero()[0]
            if len(missed):
                secondary.missed.add(writes[int(missed[-1])])
        opened = max(int((of_site == WriteFate.OPEN).sum()) for of_site in fates.values())
        self._linked.resolve()
        if opened:
            self._request_flush_when_full(opened, self._linked_extents)

    def _spans_changed(self, secondary: ForkedSecondary) -> None:
        """Take what became known of linked writes: some are flushed, missed, or hang no more."""
        assert self._linked is not None
        write = self._linked.missed_at(secondary.site, since=secondary.spans.flushed)
        if write is not None and not secondary.is_in:
            secondary.missed.add(write)
        self._linked.resolve()
        self.changed.notify_all()

    def _take_known(self, known: KnownWrites) -> None:
        self._is_batch_due = self._is_batch_due or any(known.outcomes)
        self._on_known(known)

    def _look_at_links(self) -> None:
        """Take what the other process says of the secondaries."""
        for secondary in self.secondaries:
            secondary.look_at_link()

    @property
    def is_waited_for(self) -> bool:
        """Return whether the mode makes the writer wait for any secondary."""
        return self._mode.waits_for > 0

    def wait_for_write(self, write: ForkedWrites) -> None:
        """Wait until as many secondaries in the fork have the write as the mode requires."""
        while not write.satisfies(self._mode):
            self.wait()

    def request_flush(self) -> list[tuple[ForkedSecondary, int]]:
        """Request a flush of all secondaries in the fork.

        Return each with the number of its flush, for wait_for_flushes().
        """
        self._unflushed_since_s, self._unflushed_writes = None, 0
        return [
            (secondary, secondary.request_flush())
            for secondary in self.secondaries
            if secondary.is_in
        ]

    def wait_for_flushes(self, requested: Sequence[tuple[ForkedSecondary, int]]) -> None:
        """Wait until as many secondaries in the fork have flushed as the mode requires."""
        while True:
            done = sum(secondary.is_flushed(number) for secondary, number in requested)
            still_in = sum(secondary.is_in for secondary, _ in requested)
            if done >= min(self._mode.waits_for, still_in):
                return
            self.wait()

    def wait(self) -> None:
        """Wait a moment for a change; then put secondaries out of the fork that hang."""
        self._context.ports.workers.wait(self.changed, _WAIT_S)
        now_s = self._context.clock.monotonic_s()
        for secondary in self.secondaries:
            secondary.expire(now_s)
        self._look_at_links()

    def settle(self) -> None:
        """Wait until each write that ended before has known outcomes; hung calls are left out."""
        self._collect_linked()
        writes = list(self._writes.values())
        below = 0 if self._link is None else self._link.look().next
        self.request_flush()
        while any(write.open for write in writes):
            self.wait()
        while self._linked is not None and self._linked.has_open(below):
            self.wait()

    def are_hung(self, writes: Collection[InFlightTuple]) -> bool:
        """Return True if only hung calls keep these writes in flight."""
        if self._linked is not None:
            known = self._linked.outcomes()
            outcomes = [known.get(id(write)) for write in writes]
            return all(
                of_sites is not None and ForkOutcome.OPEN not in of_sites.values()
                for of_sites in outcomes
            )
        forked_writes = [self._writes.get(id(write)) for write in writes]
        return all(forked is not None and not forked.open for forked in forked_writes)

    @property
    def holds_back(self) -> bool:
        """Return whether each batch and heartbeat must name a block that isn't in flight."""
        return any(secondary.missed.held_back is not None for secondary in self.secondaries)

    def closed_batch(
        self, batch: Batch, in_flight: Collection[InFlightTuple], at_us: int
    ) -> ClosedBatch:
        """Return what a command names: the batch, what is in flight, and the held-back blocks.

        at_us: the time of the held-back blocks.
        """
        sites_in = [secondary.site for secondary in self.secondaries if secondary.is_in]
        if self._linked is None:
            outcomes = outcomes_in_flight(in_flight, self._writes, sites_in)
        else:
            known, on_primary = self._linked.outcomes(), dict.fromkeys(sites_in, ForkOutcome.OPEN)
            outcomes = [known.get(id(write), on_primary) for write in in_flight]
        holding = [
            (secondary.site, secondary.missed.held_back)
            for secondary in self.secondaries
            if secondary.missed.held_back is not None
        ]
        held_back = held_back_writes((extent for _, extent in holding), at_us)
        others_have = [
            {site: ForkOutcome.HAS for site in sites_in if site != holder} for holder, _ in holding
        ]
        return batch.closed_with([*in_flight, *held_back], [*outcomes, *others_have])

    def published(self, number: int, *, with_held_back: bool = True) -> None:
        """Note that command `number` names everything that was missed or is in flight.

        with_held_back: it names the held-back blocks too.
        """
        for secondary in self.secondaries:
            secondary.missed.published(number, with_held_back=with_held_back)

    def forget_published(self) -> None:
        """Note that commands that named missed writes may be lost."""
        for secondary in self.secondaries:
            secondary.missed.forget_published()

    def poll(self, now_s: float) -> None:
        """Take the sites' reports, at most every _REPORT_INTERVAL_S. Call it without the lock.

        While Kafka is away, the last reports stay.
        """
        if now_s - self._polled_s < _REPORT_INTERVAL_S:
            return
        self._polled_s = now_s
        doing = f"volume {self._volume.volume}: reading the sites' reports"
        try:
            self._context.ports.reports.poll()
            if text := self._poll_reports.worked(doing, now_s=now_s):
                self._context.report(f"{doing} {text}")
        except MirrorlogError as error:
            if text := self._poll_reports.failed(doing, str(error), now_s=now_s):
                self._context.report(f"{doing} fails: {text}")

    def tick(self, now_s: float, position: int, is_acknowledged: Callable[[int], bool]) -> None:
        """Do what is due: the steps of each secondary, and a flush before the next batch.

        position: the volume's highest acknowledged position. is_acknowledged: tells this of a
        command's number.
        """
        reports = self._context.ports.reports.of(self._volume.volume)
        ends = None if self._link is None else self._link.ends()
        self._collect_linked()
        for secondary in self.secondaries:
            secondary.missed.acknowledged(position, is_acknowledged)
            secondary.expire(now_s)
            secondary.advance(now_s, report_of(secondary.site, reports), ends)
        self._look_at_links()
        linger_s = self._context.settings.host_linger_s
        if self._unflushed_since_s is not None and now_s - self._unflushed_since_s >= linger_s:
            self.request_flush()

    def take_batch_due(self) -> bool:
        """Return True, once, if a flush has shown that secondaries have writes of the batch."""
        is_due, self._is_batch_due = self._is_batch_due, False
        return is_due

    def close(self) -> None:
        """End all calls, except for those that close the secondaries."""
        for secondary in self.secondaries:
            secondary.close()

    def _request_flush_when_full(self, count: int, batch_extents: int) -> None:
        """Count more unflushed writes. Request a flush once they fill a batch."""
        self._unflushed_writes += count
        if self._unflushed_since_s is None:
            self._unflushed_since_s = self._context.clock.monotonic_s()
        if self._unflushed_writes >= batch_extents:
            self.request_flush()

    def _outcome_changed(self, forked: ForkedWrites) -> None:
        """Take what is newly known of writes. Pass them on once every outcome is known."""
        if forked.is_known and id(forked.writes[0]) in self._writes:
            for write in forked.writes:
                del self._writes[id(write)]
            self._is_batch_due = self._is_batch_due or bool(forked.has)
            self._context.on_outcomes_known(forked, forked.outcomes())
        self.changed.notify_all()
