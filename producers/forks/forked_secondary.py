"""One secondary of a forked volume: its queue of writes, its flushes and its state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, RLock
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.producers.batches.batch import Outcomes
from mirrorlog.producers.forks.fork_calls import (
    Call,
    CallKind,
    ForkedDevice,
    ForkPorts,
    SecondaryAddress,
)
from mirrorlog.producers.forks.fork_links import LinkedSecondary, SecondaryLink
from mirrorlog.producers.forks.fork_spans import ForkSpans
from mirrorlog.producers.forks.fork_states import (
    TRANSITIONS,
    ForkEvent,
    ForkState,
    state_change,
)
from mirrorlog.producers.forks.forked_write import ForkedWrites
from mirrorlog.producers.forks.missed_writes import (
    MissedWrites,
    is_other_secondary,
    knows_held_back,
    may_join,
    site_started_over_since,
    site_starts_over,
)
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class ForkContext:
    """The parts of the host that the forks of one volume need.

    lock: the tracker's. report: takes lines for people. on_outcomes_known: called, with the lock
    held, when the outcomes of writes are known for every secondary.
    """

    ports: ForkPorts
    lock: RLock
    clock: Clock
    settings: Settings
    report: Callable[[str], None]
    on_outcomes_known: Callable[[ForkedWrites, Outcomes], None]


class ForkedSecondary:
    """One secondary of one volume. Every method needs the tracker's lock."""

    def __init__(
        self,
        site: str,
        volume: Volume,
        address: str,
        context: ForkContext,
        *,
        blocks_writer: bool,
        known_position: int,
        on_outcome: Callable[[ForkedWrites], None],
    ) -> None:
        """Make a secondary that is out of the fork.

        blocks_writer: the writer waits for each of its writes. known_position: see MissedWrites.
        on_outcome: called with writes when more is known of them.
        """
        self.site: Final = site
        self.state = ForkState.OUT
        self.reason: str | None = None
        self.missed: Final = MissedWrites(known_position)
        self.work: Final = Condition(context.lock)
        self._on_outcome: Final = on_outcome
        self._volume = volume
        self._address: Final = SecondaryAddress(
            address, site, volume.volume, volume.size_bytes, context.ports.open_secondary
        )
        self._context: Final = context
        self._blocks_writer: Final = blocks_writer
        self._queue: Final[deque[Call]] = deque()
        self._queued_bytes = 0
        self._unflushed: Final[list[ForkedWrites]] = []
        self._open_writes = 0
        self._current: Call | None = None
        self._device: ForkedDevice | None = None
        self._flushes_requested = self._flushes_done = 0
        self._retry_at_s = float("-inf")
        self._joined: SiteProgress | None = None
        self._failures = RetryReports()
        self._was_in = False
        self.link: SecondaryLink | None = None
        self.spans: Final = ForkSpans()
        self._on_spans: Callable[[ForkedSecondary], None] = lambda _: None

    def attach_writer(
        self, link: SecondaryLink, on_spans: Callable[[ForkedSecondary], None]
    ) -> None:
        """Let another process write to the secondary from now on. Nothing was written to it yet.

        on_spans: called when `spans` has changed, so that outcomes of its writes may be known.
        """
        self.link, self._on_spans = link, on_spans
        if self.state is ForkState.IN:
            self.leave_fork("nbdkit writes to it from now on")
        elif self.state is ForkState.JOINING:
            self._link_device()

    @property
    def address(self) -> str:
        """The address of the secondary."""
        return self._address.address

    @property
    def is_in(self) -> bool:
        """Return whether writes go to the secondary."""
        return self.state is ForkState.IN

    @property
    def is_done(self) -> bool:
        """See SecondaryCalls."""
        return self.state is ForkState.CLOSED and self._device is None and self._current is None

    @property
    def _secondary_id(self) -> str | None:
        """The id of the secondary that is open; None if none is."""
        return None if self._device is None else self._device.secondary_id

    @property
    def open_writes(self) -> int:
        """How many of its writes have an unknown outcome."""
        return self._open_writes

    @property
    def queued_bytes(self) -> int:
        """The size of the data that waits for it."""
        return self._queued_bytes

    def enqueue(self, forked: ForkedWrites, contents: Sequence[bytes | None]) -> None:
        """Put writes at the end of the queue. contents: the data of each; None writes zeros."""
        forked.note_queued(self.site)
        self._queued_bytes += size_of(contents)
        self._open_writes += len(forked.writes)
        now_s = self._context.clock.monotonic_s()
        self._enqueue(Call(CallKind.WRITE, now_s, forked=forked, contents=contents))

    def request_flush(self) -> int:
        """Put a flush at the end of the queue, if there is anything to flush.

        Return the number of the flush that covers everything enqueued so far, for is_flushed().
        """
        last = self._queue[-1] if self._queue else self._current
        # Another process may have written since the running flush began.
        covers_all = self.link is None or last is not self._current
        if last is not None and last.kind is CallKind.FLUSH and covers_all:
            return last.number
        if last is not None or self._unflushed or self._is_link_unflushed():
            self._flushes_requested += 1
            now_s = self._context.clock.monotonic_s()
            self._enqueue(Call(CallKind.FLUSH, now_s, number=self._flushes_requested))
        return self._flushes_requested

    def is_flushed(self, number: int) -> bool:
        """Return True if that flush has succeeded and the secondary is still in the fork."""
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
            self.leave_fork(failure, call.forked)
        else:
            self._succeeded(call)
        self.work.notify()

    def _succeeded(self, call: Call) -> None:
        match call.kind:
            case CallKind.OPEN:
                self._change_state(ForkEvent.OPENED)
                if self.link is not None:
                    self._link_device()
            case CallKind.WRITE:
                assert call.forked is not None
                self._queued_bytes -= size_of(call.contents)
                self._unflushed.append(call.forked)
                call.forked.note_reached(self.site)
                self._on_outcome(call.forked)
            case CallKind.FLUSH:
                self._flushes_done = call.number
                flushed, self._unflushed[:] = self._unflushed[:], ()
                for forked in flushed:
                    self._open_writes -= len(forked.writes)
                    forked.note_flushed(self.site)
                    self._on_outcome(forked)
                if self.link is not None and isinstance(call.device, LinkedSecondary):
                    self.spans.note_flushed(call.device.covered)
                    self.link.note_flushed(call.device.covered)
                    self._on_spans(self)

    def _link_device(self) -> None:
        """Let the other process open the secondary, which is open here."""
        assert self._device is not None and self.link is not None
        try:
            self._device = LinkedSecondary(self._device, self.link)
        except DeviceFailed as error:
            self.leave_fork(str(error))

    def _is_link_unflushed(self) -> bool:
        """Return whether another process has forked writes to it since its last flush."""
        return self.link is not None and self.is_in and self.spans.unflushed(self.link.look().next)

    def look_at_link(self) -> None:
        """Take what another process says of the secondary: it has left, or a call has returned."""
        if self.link is None:
            return
        state = self.link.look()
        if self.is_in and state.failure is not None:
            self.leave_fork(state.failure)
        if self.spans.is_hung and (self.link.is_gone or not state.busy):
            self.spans.note_returned()
            self._on_spans(self)

    def _returned_late(self, call: Call) -> None:
        """Take a call that returns after the secondary left. Its writes are named once more."""
        if self.state is ForkState.HUNG:
            self._change_state(ForkEvent.RETURNED, self.reason)
        if call.forked is not None:
            call.forked.note_returned(self.site)
            self._miss(call.forked)

    def leave_fork(self, reason: str, failed: ForkedWrites | None = None) -> None:
        """Leave the fork.

        The secondary then misses `failed`, what waits in its queue, what isn't flushed, and the
        writes of the running call.
        """
        call = self._current
        self._change_state(ForkEvent.FAILED if call is None else ForkEvent.GIVEN_UP, reason)
        retry_s = self._context.settings.host_fork_retry_s
        self._retry_at_s = self._context.clock.monotonic_s() + retry_s
        self._miss_all(failed)
        self.work.notify()

    def _miss_all(self, failed: ForkedWrites | None = None) -> None:
        """Count the writes with an unknown outcome as missed. Nobody waits for a flush any more."""
        if self.link is not None:
            self.link.leave()
            state = self.link.look()
            self.spans.leave(state.left, range(0) if self.link.is_gone else state.busy)
            self._on_spans(self)
        self.missed.stop_holding_back()
        self._flushes_done = self._flushes_requested
        call = self._current
        if call is not None and call.forked is not None:
            call.forked.note_hung(self.site)
            failed = call.forked
        queued = [waiting.forked for waiting in self._queue]
        missed = [
            *self._unflushed,
            *([failed] if failed else []),
            *(forked for forked in queued if forked is not None),
        ]
        self._queue.clear()
        self._unflushed.clear()
        self._queued_bytes = self._open_writes = 0
        for forked in missed:
            self._miss(forked)

    def _miss(self, forked: ForkedWrites) -> None:
        forked.note_missed(self.site)
        self.missed.add(forked.writes[-1])
        self._on_outcome(forked)

    def expire(self, now_s: float) -> None:
        """Leave the fork if the oldest call takes too long, or waits too long for its worker.

        The time of a call begins again with each of its writes that returns.
        """
        call = self._current or (self._queue[0] if self._queue else None)
        if call is None or self.state not in (ForkState.OPENING, ForkState.IN):
            return
        if call.done != call.seen_done:
            call.seen_done, call.began_s = call.done, now_s
        counts_waiting = self._blocks_writer or self._current is None
        took_s = now_s - (call.requested_s if counts_waiting else call.began_s)
        limit_s = self._context.settings.host_fork_timeout_s
        if took_s >= limit_s:
            self.leave_fork(f"{call.kind.name.lower()} took longer than {limit_s:g} s")

    def describe(self, volume: Volume) -> None:
        """Take a new description of the volume. What its site reports of an old one is void."""
        self._volume = volume

    def advance(self, now_s: float, report: SiteProgress | None, ends: int | None = None) -> None:
        """Take the next step that its state allows. report: the last one of its site.

        ends: with another process that forks, see SecondaryLink.join().
        """
        match self.state:
            case ForkState.OUT if now_s >= self._retry_at_s and self._device is None:
                self._change_state(ForkEvent.RETRIED, self.reason)
                self._enqueue(Call(CallKind.OPEN, now_s, address=self._address))
            case ForkState.JOINING | ForkState.IN if is_other_secondary(self._secondary_id, report):
                self.leave_fork("its site reports another file or device as the secondary")
            case ForkState.JOINING if may_join(
                self.missed,
                self._volume.generation,
                report,
                secondary_id=self._secondary_id,
            ) and self._join_link(report, ends):
                self._joined = report
                self.missed.join()
                self._change_state(ForkEvent.SITE_KNOWS)
            case ForkState.JOINING:
                self.missed.hold_back(self._volume.block_size)
            case ForkState.IN if report is not None and self._joined is not None:
                if site_starts_over(self._volume.generation, report) or site_started_over_since(
                    self._joined, report
                ):
                    self.leave_fork("its site has begun to copy it from nothing")
                self._joined = report

    def _join_link(self, report: SiteProgress | None, ends: int | None) -> bool:
        """Let another process send its writes to the secondary, too. Return whether it does.

        Only while the site knows of the held-back block may the secondary miss writes that nobody
        has collected yet.
        """
        if self.link is None:
            return True
        held_back = report is not None and knows_held_back(self.missed, report)
        if not self.link.join(None if held_back else ends):
            return False
        self.spans.join(self.link.look().joined)
        return True

    def close(self) -> None:
        """End its calls, except for the one that closes the device. A second call does nothing."""
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
            self._volume.volume,
            self.site,
            before=before,
            state=self.state,
            reason=reason,
        )
        if change.text is not None and (text := self._text_to_report(change.text)):
            self._context.report(text)
        self._context.ports.on_state_change(change)

    def _text_to_report(self, text: str) -> str | None:
        """Return what people should read of a change that `text` describes; None for nothing.

        A secondary that leaves the fork again and again is reported at growing intervals.
        """
        now_s = self._context.clock.monotonic_s()
        if self.state is not ForkState.IN:
            return self._failures.failed(self.site, text, now_s=now_s)
        is_first, self._was_in = not self._was_in, True
        recovery = self._failures.worked(self.site, now_s=now_s)
        if recovery is not None:
            return f"{text}; it {recovery}"
        return text if is_first else None


def size_of(contents: Sequence[bytes | None]) -> int:
    """Return the bytes of the data of writes."""
    return sum(len(data) for data in contents if data is not None)
