"""The bookkeeping of writes from their begin to the acknowledgement of their commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, DeviceFailed, KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.ports.task_runner import TaskRunner
from mirrorlog.producers.batches.batch import InFlightTuple, InFlightWrite
from mirrorlog.producers.batches.hot_regions import HotRegion, VolumeRegions
from mirrorlog.producers.durable.activity_log import ActivityLog
from mirrorlog.producers.forks.fork_calls import ForkPorts
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.producers.writes.attached_writers import AttachedWriters
from mirrorlog.producers.writes.background_jobs import BackgroundJobs
from mirrorlog.producers.writes.batch_sending import (
    send_all_batches,
    send_batch,
    send_heartbeat,
)
from mirrorlog.producers.writes.fork_tracking import (
    advance_all_forks,
    attach_forks,
    close_all_forks,
    settle_all_forks,
    wait_until_forks_idle,
)
from mirrorlog.producers.writes.hot_region_admission import make_hot, make_hot_ahead
from mirrorlog.producers.writes.open_batch import (
    collect_all_ended,
    collect_ended,
    end_write,
    is_full,
)
from mirrorlog.producers.writes.primary_flush import flush_primary
from mirrorlog.producers.writes.region_cooling import RegionCooling
from mirrorlog.producers.writes.timers import due_work
from mirrorlog.producers.writes.tracker_state import OpenVolume, TrackerState
from mirrorlog.producers.writes.whole_volume_fallback import (
    WHOLE_VOLUME_NOTE,
    fall_back_to_whole_volume,
    return_all_to_regions,
)
from mirrorlog.settings import Settings

_LOCK_FREE_POLL_S: Final = 0.001
"""How often wait_until_idle() looks for lock-free writes, which notify nobody."""
_FORKED_TOGETHER_BYTES: Final = 2 << 20


class WriteTracker:
    """The write tracker of a session. Any number of threads may use it.

    One lock, `lock`, covers all that it keeps (tracker_state.py). Data is written and flushed
    without it. Most writes begin and end without the lock (batches/lock_free_writes.py).

    While Kafka is away, a write that finds no room in the activity log doesn't wait for Kafka. It
    makes room in steps: the spool is made durable, so that regions may leave; then the volume with
    the most regions counts as dirty as a whole (hot_region_admission.py, whole_volume_fallback.py;
    docs/decisions/host-spool.md).

    attached_writers: accounts for the writes of other processes.
    forked_together_bytes: lock-free writes go to the secondaries when they hold about so much data.
    The queue of a secondary has room for several times that.
    max_write_bytes: a write is cut at multiples of it, so that the regions of one write fit in the
    activity log.
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
        """Start without volumes.

        report: takes lines for people. allows_lock_free: what has_interpreter_lock() says.
        jobs: where primaries are flushed that no writer waits for. flushes: runs the flushes that
        one writer waits for.
        """
        self._state: Final = TrackerState(
            log,
            outbox,
            clock,
            settings,
            report,
            allows_lock_free=allows_lock_free,
            jobs=jobs,
            flushes=flushes,
        )
        self.lock: Final = self._state.lock
        self.volumes: Final = self._state.volumes
        self.coarse_clock: Final = self._state.coarse_clock
        self.region_bytes: Final = settings.region_bytes
        self.batch_extents: Final = settings.host_batch_extents
        self.forked_together_bytes: Final = min(
            _FORKED_TOGETHER_BYTES, settings.host_fork_queue_bytes // 8
        )
        self.max_write_bytes: Final = settings.region_bytes * settings.hot_regions
        self.attached_writers: Final = AttachedWriters(self._state)
        self._cooling: Final = RegionCooling(self._state)

    def add_volume(
        self,
        volume: Volume,
        device: BlockDevice,
        forks: ForkPlan | None = None,
        ports: ForkPorts | None = None,
    ) -> OpenVolume:
        """Let writes to a volume begin. Its SESSION_OPEN must be acknowledged.

        ports: needed with `forks`.
        """
        state, name = self._state, volume.volume
        with state.lock:
            opened = OpenVolume(
                volume, device, VolumeRegions(name), failed=state.outbox.rejected.get(name)
            )
            state.volumes[name] = opened
            state.hot.volumes[name] = opened.regions
            state.timers.heartbeat_s.setdefault(volume.partition, state.clock.monotonic_s())
            state.coarse_clock.now_us = state.clock.now_us()
            if forks is not None and ports is not None:
                attach_forks(state, opened, forks, ports)
            state.update_writable(opened)
            return opened

    def renew(self, volume: Volume) -> None:
        """Take over the generation and the history of an open volume's new description.

        The caller has the lock. Commands that the session sends from now on name them.
        """
        opened = self._state.volumes[volume.volume]
        opened.volume = volume
        if opened.forks is not None:
            opened.forks.describe(volume)

    def begin(
        self, opened: OpenVolume, kind: ExtentKind, *, offset: int, length: int
    ) -> InFlightWrite:
        """Begin a write; the caller may then touch its data. end() must follow.

        When it returns, the write's regions are durable in the activity log, and the write is in
        flight. A write to a forked volume first waits for those that it overlaps. For errors see
        make_hot().
        """
        size = self.region_bytes
        numbers = range(offset // size, (offset + length - 1) // size + 1)
        if opened.forks is not None:
            with self.lock:
                opened.forks.enter(offset=offset, length=length)
        try:
            register = partial(self._register, opened, kind, offset, length)
            return make_hot(self._state, opened, numbers, register)
        except BaseException:
            if opened.forks is not None:
                with self.lock:
                    opened.forks.leave(offset=offset, length=length)
            raise

    def expect_writes(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """Make the regions of coming writes durable in the activity log, all with one wait.

        ranges: (volume, offset, length) of each. For what is passed over see make_hot_ahead().
        """
        size, coming = self.region_bytes, dict[str, dict[int, None]]()
        for name, offset, length in ranges:
            numbers = range(offset // size, (offset + length - 1) // size + 1)
            coming.setdefault(name, {}).update(dict.fromkeys(numbers))
        make_hot_ahead(self._state, {name: list(numbers) for name, numbers in coming.items()})

    def _register(
        self,
        opened: OpenVolume,
        kind: ExtentKind,
        offset: int,
        length: int,
        regions: Iterable[HotRegion],
    ) -> InFlightWrite:
        write = InFlightWrite(kind, offset, length, self.coarse_clock.now_us, tuple(regions))
        opened.in_flight[id(write)] = write
        return write

    def end(
        self,
        opened: OpenVolume,
        write: InFlightWrite,
        data: Data | None = None,
        *,
        succeeded: bool = False,
    ) -> None:
        """End a write, whether it succeeded or not.

        The write joins the open batch. A full batch is handed to send_batch() at once; otherwise
        tick() sends it when it is due.

        data, succeeded: used if the volume is forked. They are what was written, and whether the
        primary has it. The write then goes to the secondaries, and joins the batch when its
        outcome is known there. The call returns when as many secondaries have it as the mode
        requires.
        """
        with self.lock:
            forks, forked_write = opened.forks, None
            if forks is None:
                end_write(self._state, opened, write)
            else:
                collect_ended(self._state, opened)
                forked_write = forks.write_ended(write, data, succeeded=succeeded)
            if is_full(self._state, opened):
                send_batch(self._state, opened)
            if forks is not None and forked_write is not None:
                forks.wait_for_write(forked_write)

    def note_ended(self, opened: OpenVolume) -> None:
        """Take note that lock-free writes have ended.

        collect_ended() adds them to the open batch at the next tick(), or when the batch is sent. A
        full batch is handed to send_batch() at once; otherwise tick() sends it when it is due.
        """
        with self.lock:
            opened.lock_free.ended_since_s = self._state.clock.monotonic_s()
            self._state.with_ended[opened.name] = opened
            if len(opened.lock_free.ended) >= self.batch_extents:
                send_batch(self._state, opened)

    def collect_forked(self, opened: OpenVolume) -> None:
        """Hand lock-free writes of a forked volume that have ended to the secondaries.

        A full batch is handed to send_batch() at once. Otherwise tick() does all that.
        """
        with self.lock:
            collect_ended(self._state, opened)
            if is_full(self._state, opened):
                send_batch(self._state, opened)

    def back_out(self, opened: OpenVolume, write: InFlightTuple) -> None:
        """Forget a lock-free write that began as its region left, and touched nothing."""
        with self.lock:
            opened.lock_free.back_out(write)

    def flush(self, opened: OpenVolume) -> None:
        """Call flush_primary() for the volume."""
        flush_primary(self._state, opened)

    def flush_all(self, opened: OpenVolume) -> None:
        """Flush the primary, and as many secondaries in the fork as the fork mode requires."""
        forks = opened.forks
        if forks is None or not forks.is_waited_for:
            self.flush(opened)
            return
        with self.lock:
            requested = forks.request_flush()
        self.flush(opened)
        with self.lock:
            forks.wait_for_flushes(requested)

    def flush_forks(self, opened: OpenVolume) -> None:
        """Flush as many secondaries in the fork as the fork mode requires, and wait for them."""
        if opened.forks is not None:
            with self.lock:
                opened.forks.wait_for_flushes(opened.forks.request_flush())

    def fail(self, opened: OpenVolume, error: DeviceFailed | BadInput) -> None:
        """Let no write of the volume begin any more. See TrackerState.fail()."""
        self._state.fail(opened, error)

    def reject(self, name: str, error: BadInput) -> None:
        """Fail the volume, if it is open, because the node refused a command of it.

        What the command named stays in the activity log.
        """
        with self.lock:
            if name in self.volumes:
                self._state.fail(self.volumes[name], error)

    def fall_back_to_whole_volume(
        self, names: Collection[str], note: str = WHOLE_VOLUME_NOTE
    ) -> None:
        """Let these volumes, if they are open, count as dirty as a whole. With the lock held.

        After it, no command is needed that would have named their earlier writes.
        note: the reason, for people.
        """
        fall_back_to_whole_volume(self._state, names, note)

    def tick(self, now_s: float) -> None:
        """Hand the batches that are due to send_batch(), send heartbeats, take acknowledgements.

        Regions that are idle leave the activity log (region_cooling.py).

        now_s: by the monotonic clock. Call it every few milliseconds from one thread, without the
        lock.
        """
        state = self._state
        state.coarse_clock.now_us = state.clock.now_us()
        self.attached_writers.collect_all()
        advance_all_forks(state, now_s)
        with self.lock:
            collect_all_ended(state)
            due = due_work(
                state.timers,
                now_s,
                linger_s=state.settings.host_linger_s,
                heartbeat_s=state.settings.host_heartbeat_s,
            )
            for name in self._due_batches(due.batches):
                send_batch(state, state.volumes[name])
            return_all_to_regions(state)
            for partition in due.heartbeats:
                send_heartbeat(state, partition)
        state.outbox.poll(0)
        self._cooling.tick(now_s)

    def _due_batches(self, lingered: Iterable[str]) -> Iterable[str]:
        """Return the volumes whose open batch leaves now: it has lingered, or it is full.

        Lock-free writes that tick() has collected may fill it, and no writer looks at it then.
        """
        state = self._state
        full = [name for name in state.timers.batch_since_s if is_full(state, state.volumes[name])]
        return dict.fromkeys([*lingered, *full])

    def drain(self) -> None:
        """Wait until everything that ended before is acknowledged. Call it without the lock.

        It returns when it finds that a history broke: call it again when that is handled.
        Raise KafkaFailed if that takes too long.
        """
        state = self._state
        until_s = state.clock.monotonic_s() + 2 * state.outbox.deadline_s
        with self.lock:
            settle_all_forks(state)
        while True:
            with self.lock:
                send_all_batches(state)
            state.outbox.wait(until_break=True)
            with self.lock:
                is_dirty = any(opened.dirty_regions for opened in state.with_dirty_regions.values())
                if not is_dirty or state.outbox.positions.broken:
                    return
                return_all_to_regions(state)
            if state.clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    "the regions that became dirty while Kafka was away couldn't be published",
                    next="Look for a write that doesn't return, and check that the broker runs.",
                )
            state.outbox.poll(0.01)

    def wait_until_idle(self, opened: OpenVolume) -> None:
        """Let no write of the volume begin any more, and wait until none is in flight.

        If calls to a secondary hang until the deadline, return with their writes in flight. The
        volume has then failed, and its session stays open, as after a crash.
        """
        state = self._state
        with self.lock:
            opened.closing = True
            state.update_writable(opened)
            collect_ended(state, opened)
            forks = opened.forks
            while opened.lock_free.in_flight or (forks is None and opened.in_flight):
                state.write_ended.wait(_LOCK_FREE_POLL_S if opened.lock_free.in_flight else None)
                collect_ended(state, opened)
            if forks is not None:
                wait_until_forks_idle(state, opened, forks)

    def remove_volumes(self, names: Collection[str]) -> None:
        """Forget these volumes. Nothing of them may be in flight or unpublished.

        When it returns, nothing calls their primaries any more.
        """
        state = self._state
        self._state.jobs.wait()
        with self.lock:
            for name in names:
                opened = state.volumes.pop(name)
                del state.hot.volumes[name]
                state.with_dirty_regions.pop(name, None)
                state.attached.pop(name, None)
                state.with_ended.pop(name, None)
                state.forked.pop(name, None)
                if opened.forks is not None:
                    opened.forks.close()
                state.timers.batch_since_s.pop(name, None)
            for partition in state.timers.heartbeat_s.keys() - state.partitions():
                del state.timers.heartbeat_s[partition]

    def abandon(self) -> None:
        """End the session as a crash does: no call to a secondary begins any more.

        When it returns, nothing calls the primaries any more.
        """
        with self.lock:
            close_all_forks(self._state)
        self._state.jobs.wait()

    def partitions(self, *, without: Collection[str] = ()) -> set[int]:
        """Return the partitions in which volumes are open, except for those `without`."""
        return self._state.partitions(without=without)
