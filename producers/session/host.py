"""One session of a host: the door to everything else in producers/session.

It settles what the last session left, opens volumes, sends what is due, and closes volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, DeviceFailed, MirrorlogError
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.task_runner import run_all
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.activity_log import SLOTS, ActivityLog
from mirrorlog.producers.durable.spool import Spool, remove_spool
from mirrorlog.producers.publishing.confirmations import Confirmations
from mirrorlog.producers.publishing.outbox import Outbox, OutboxCallbacks
from mirrorlog.producers.publishing.publish_queue import PublishLimits
from mirrorlog.producers.publishing.session_commands import CommandSource
from mirrorlog.producers.session.broken_histories import BrokenHistories
from mirrorlog.producers.session.clones import refuse_beside_original
from mirrorlog.producers.session.description_watch import DescriptionWatch
from mirrorlog.producers.session.figures import HostFigures, host_figures
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import (
    OpenRequest,
    check_own_sessions,
    check_requests,
    exclude_other_hosts,
    opened_entries,
    withdraw,
)
from mirrorlog.producers.session.parts import SessionParts
from mirrorlog.producers.session.primaries import check_primaries
from mirrorlog.producers.session.renewals import Renewals
from mirrorlog.producers.session.reporting import HostReporter, ReportingSession
from mirrorlog.producers.session.session_search import SessionSearch
from mirrorlog.producers.session.settling import (
    known_entries,
    read_previous_session,
    settle,
    settle_previous,
)
from mirrorlog.producers.session.unvouched import NOTE_S, Unvouched
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.tracker_state import OpenVolume
from mirrorlog.producers.writes.write_tracker import WriteTracker
from mirrorlog.settings import Settings

DEADLINE_S: Final = 60.0


class Host:
    """One session of a host. Any number of threads may use it.

    One of them calls tick() every few milliseconds. Let signal handlers set a flag: an exception
    that a handler raises (KeyboardInterrupt) may stop a write between two of its steps, and the
    write stays in flight for ever.
    """

    def __init__(
        self,
        name: str,
        ports: HostPorts,
        settings: Settings,
        volumes: Mapping[str, Volume],
        *,
        new_session: Callable[[], str] = lambda: str(uuid4()),
        report: Callable[[str], None] = lambda _: None,
        deadline_s: float = DEADLINE_S,
        log_slots: int = SLOTS,
    ) -> None:
        """Start the session. A crash between two steps loses nothing: the next start repeats them.

        1. The folder is locked. So the session before is dead, and nothing of it is in flight.
        2. Its activity log and its spool are read (settling.read_previous_session). If the folder
           may be a copy, the session before may live: then the host listens first (clones.py).
        3. This session's activity log durably replaces the old one. It holds everything that the
           old one says may be unpublished (invariant 1), and the regions of all commands in the
           spool. It says, too, that this session is open on the volumes of step 5. From now on the
           spool isn't needed for safety: it only says more exactly what is dirty.
        4. Where the commands end below a position that the folder knows, commands that were
           acknowledged are gone: every volume of the partition counts as dirty as a whole, durably.
        5. What may be unpublished is published, and the old sessions are closed
           (settling.settle_previous). Volumes that aren't in `volumes`, or whose primary can't be
           flushed, are reported; they stay in the log until a later start or open() settles them.
        6. The old spool is removed.

        volumes: every volume that exists, by name.
        report: called with each line that people should read.
        deadline_s: how long the host waits for an acknowledgement.
        log_slots: how many appends the activity log takes before it is rewritten.
        Errors: BadUse if another host holds the folder or its original; DeviceFailed if the folder
        can't be written, KafkaFailed.
        """
        self._settings: Final = settings
        self._report: Final = report
        self._ports: Final = ports
        self._handles: Final[dict[str, TrackedVolume]] = {}
        self._volumes: Final = dict(volumes)
        self._noted_s = ports.clock.monotonic_s()
        ports.folder.lock()  # 1
        with ExitStack() as undo:
            undo.callback(ports.folder.close)
            self.session: Final = new_session()
            previous = read_previous_session(
                ports.folder, volumes, session=self.session, settings=settings, report=report
            )  # 2
            refuse_beside_original(
                ports.folder,
                previous.sessions_but(self.session),
                volumes,
                ports.sessions,
                settings.topics.commands,
                ports.clock,
                report,
            )
            self._log: Final = ActivityLog(
                ports.folder, self.session, settings.region_bytes, previous.state, log_slots
            )  # 3
            undo.callback(self._log.close)
            self._outbox: Final = self._new_outbox(name, deadline_s)
            undo.callback(self._outbox.close)
            self._tracker: Final = WriteTracker(
                self._log,
                self._outbox,
                ports.clock,
                settings,
                report,
                allows_lock_free=ports.has_interpreter_lock(),
                jobs=ports.jobs,
                flushes=ports.flushes,
            )
            self._parts: Final = SessionParts(
                self.session, self._log, self._outbox, settings, report
            )
            self._search: Final = (
                None
                if ports.sessions is None
                else SessionSearch(name, self._parts, ports.sessions, ports.clock)
            )
            self._histories: Final = BrokenHistories(
                self._volumes, self._log, self._outbox, self._tracker, self._search, report
            )
            self._renewals: Final = (
                None
                if ports.descriptions is None
                else Renewals(
                    DescriptionWatch(ports.descriptions),
                    self._tracker,
                    self._outbox,
                    self._search,
                    self.session,
                    report,
                )
            )
            lost = self._histories.find_lost({volume.partition for volume in volumes.values()})  # 4
            previous.count_as_whole(lost)
            settle_previous(self._parts, previous, ports.open_device, self._search)  # 5
            self._histories.handle()
            remove_spool(ports.folder)  # 6
            self._reporter: Final = HostReporter(
                ReportingSession(name, self.session, ports.clock.now_us()),
                self.figures,
                ports.reports,
                ports.clock,
                settings,
            )
            undo.pop_all()

    @property
    def commands(self) -> int:
        """The number of commands that this session has queued."""
        return self._outbox.commands

    @property
    def extents(self) -> int:
        """The number of extents in these commands."""
        return self._outbox.extents

    @property
    def last_positions(self) -> Mapping[str, int]:
        """The position, by volume, of this session's last acknowledged command."""
        return self._outbox.last_positions

    def figures(self) -> HostFigures:
        """Return numbers for metrics and reports. Any thread may call it; it takes no lock."""
        return host_figures(self._tracker, self._outbox, self._settings)

    def open(self, volume: Volume, device: BlockDevice, newly_created: bool) -> TrackedVolume:
        """Open one volume; see open_all()."""
        return self.open_all([OpenRequest(volume, device, newly_created)])[volume.volume]

    def open_all(self, requests: Iterable[OpenRequest]) -> dict[str, TrackedVolume]:
        """Open volumes, with one wait for all of them (two if one of them is to be settled).

        The caller closes the devices, after the volumes.

        1. Every request is checked (opening.check_requests, primaries.check_primaries). If one
           can't be fulfilled, nothing was done. So is where the commands end (step 4 of the start).
        2. The activity log durably says that the session is open on each volume. From now on it
           covers the newly created ones.
        3. The primaries of the volumes that are to be settled are flushed.
        4. SESSION_OPEN of each volume is published, acknowledged. With a host key, the node must
           have recorded it, too: it refuses that of a host with a wrong key.
        5. No other host has opened one of them earlier (opening.exclude_other_hosts). Otherwise
           this session ends on all of them. What the log knows of them and the activity log
           doesn't is dirty (unvouched.py).
        6. If one of these commands shows that the history of a partition broke, the volumes there
           count as dirty as a whole (BrokenHistories.handle).
        7. What may be unpublished is published (settling.settle). When it is acknowledged, writes
           may begin. If a history breaks meanwhile, steps 6 and 7 are repeated.

        Errors: those of step 1; BadUse if another host has a volume open; DeviceFailed and
        KafkaFailed; BadInput if the node refuses a command. After an error none of the volumes is
        open, and what was unsettled before still is.
        """
        wanted = {request.volume.volume: request for request in requests}
        check_requests(
            wanted.values(),
            self._handles,
            can_fork=self._ports.forks is not None,
            has_key=bool(self._settings.host_key),
        )  # 1
        marks, volumes_known = self._ports.marks, self._log.state.volumes
        primaries = check_primaries(marks, wanted, volumes_known)
        self._volumes.update((name, request.volume) for name, request in wanted.items())
        self._histories.find_lost({request.volume.partition for request in wanted.values()})
        with self._tracker.lock:
            self._log.append(opened_entries(self._parts, wanted))  # 2
        unsettled = self._flush_unsettled(wanted)  # 3
        with self._tracker.lock:
            for request in wanted.values():
                self._outbox.send(request.volume, CommandKind.SESSION_OPEN)  # 4
        try:
            unvouched = {**self._compare_with_log(wanted), **primaries.doubts}  # 5
            for name in unvouched:
                wanted[name].device.flush()
        except MirrorlogError:
            with suppress(MirrorlogError):  # the activity log keeps it; the next start ends it
                withdraw(self._parts, wanted)
            raise
        self._outbox.wait_published()
        volumes = [request.volume for request in wanted.values()]
        is_settled = False
        while not is_settled:
            if self._histories.handle():  # 6
                unsettled = self._flush_unsettled(wanted)
            settle(
                self._parts,
                [volume for volume in volumes if volume in unsettled or volume.volume in unvouched],
                self._log.state.volumes,
                unvouched,
                reopened=True,
                histories=None if self._search is None else self._search.histories,
            )  # 7
            is_settled = not self._outbox.positions.broken
        if marks is not None:
            primaries.write_missing(marks, wanted)
        entries = list(primaries.entries())
        if self._search is not None:
            histories = self._search.histories
            entries += known_entries(self._parts, volumes, histories, follow=True)
        with self._tracker.lock:
            self._log.append(entries)
        for name in wanted:
            if name in self._outbox.rejected:
                raise self._outbox.rejected[name]
        self._reporter.look_soon()
        return {name: self._admit(request) for name, request in wanted.items()}

    def expect_writes(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """Prepare for writes that are about to begin: they then wait less for the activity log.

        ranges: (volume, offset, length in bytes) of each. It changes nothing else: a range that is
        never written costs that its regions count as dirty after a crash. Raise DeviceFailed if the
        activity log can't be written.
        """
        self._tracker.expect_writes(ranges)

    def tick(self, now_s: float) -> None:
        """Send the batches and heartbeats that are due; handle acknowledgements.

        It waits for no acknowledgement. It takes the tracker's lock.

        now_s: the time by the monotonic clock.
        """
        self._histories.handle()
        if self._renewals is not None:
            self._renewals.follow(now_s)
        self._tracker.tick(now_s)
        self._histories.handle()  # what tracker.tick() was acknowledged may show that one broke
        self._note_positions(now_s)
        self._reporter.tick(now_s)

    def pause(self, timeout_s: float) -> None:
        """Call tick(), then wait for an acknowledgement, at most for `timeout_s`."""
        self.tick(self._ports.clock.monotonic_s())
        self._outbox.poll(timeout_s)
        self._histories.handle()

    def flush_all(self, volumes: Iterable[TrackedVolume]) -> None:
        """Flush volumes of this host, several at once, as TrackedVolume.flush() does."""
        self._ports.flushes.run((volume.flush for volume in volumes), lambda _: None)

    def drain(self) -> None:
        """Publish every write that ended before the call, and wait until it is acknowledged.

        Raise BadInput if the node refused a command of the session.
        """
        self._drain()
        for error in self._outbox.rejected.values():
            raise error

    def close(self) -> None:
        """Close all volumes, and the session. Raise the first error when all others are closed.

        A volume that can't be closed cleanly stays in the activity log, for the next start.
        """
        try:
            self._close_volumes(list(self._handles))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Unlock the state folder, as a crash does: the next start publishes what was hot."""
        self._tracker.abandon()
        self._outbox.close()
        self._log.close()
        self._ports.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(MirrorlogError):  # the caller hears of the error that ended the session
            self.close()

    def _compare_with_log(self, requests: Mapping[str, OpenRequest]) -> Mapping[str, Unvouched]:
        """Do step 5 of open_all(). Return what the host can't vouch for, by volume."""
        if self._settings.host_key:
            self._wait_until_believed(requests)
        if self._search is None:
            return {}
        self._outbox.wait_published()
        volumes = {name: request.volume for name, request in requests.items()}
        known = self._search.read(volumes)
        check_own_sessions(self._parts, requests, known)
        taken_over = exclude_other_hosts(self._parts, requests, known)
        continued = {name: volume for name, volume in volumes.items() if name not in taken_over}
        return self._search.unvouched(known, continued, self._log.state.volumes)

    def _wait_until_believed(self, names: Iterable[str]) -> None:
        """Wait until the node has recorded what was sent. Raise BadInput if it refused a command.

        Only the node can tell whether the host's key is the right one. A host whose SESSION_OPEN
        isn't believed must not write: no site would wait for it.
        """
        self._outbox.wait(until_break=True)
        for name in names:
            if name in self._outbox.rejected:
                raise self._outbox.rejected[name]

    def _note_positions(self, now_s: float) -> None:
        """Note in the activity log how far Kafka has the commands, once in NOTE_S seconds.

        Without a note, the next start only publishes more as dirty. So a failure is left to the
        next write that needs the log.
        """
        if self._search is None or now_s - self._noted_s < NOTE_S:
            return
        self._noted_s = now_s
        with self._tracker.lock, suppress(DeviceFailed):
            partitions = self._tracker.partitions()
            self._log.append(self._outbox.reached_entries(partitions, with_time=True))

    def _admit(self, request: OpenRequest) -> TrackedVolume:
        """Let writes to the volume begin; return its handle."""
        opened = self._tracker.add_volume(
            request.volume, request.device, request.forks, self._ports.forks
        )
        close = request.on_close
        on_close = (lambda _: close()) if close else (lambda name: self._close_volumes([name]))
        handle = TrackedVolume(opened, self._tracker, on_close)
        self._handles[request.volume.volume] = handle
        return handle

    def _close_volumes(self, names: Collection[str]) -> None:
        """End the session on these volumes. Names of volumes that aren't open are passed over.

        1. No write begins any more, and those in flight end.
        2. The primaries are flushed. If that fails, the volume keeps its regions in the activity
           log, and steps 4 and 5 pass over it. So they do if the node refused a command of it.
        3. The open batches are published, acknowledged. Steps 3 and 4 are repeated if one of their
           commands shows that the history of a partition broke.
        4. SESSION_CLOSE of each volume is published, and one for all volumes of a partition if the
           session has no other volume open there. They are acknowledged.
        5. The activity log durably says that the volumes are settled, and how far the log of them
           is known.
        """
        closing = [self._tracker.volumes[name] for name in names if name in self._handles]
        if not closing:
            return
        for opened in closing:
            self._tracker.wait_until_idle(opened)  # 1
        failures: list[MirrorlogError] = []
        flushed: dict[str, OpenVolume] = {}
        calls = [partial(self._tracker.flush, opened) for opened in closing]
        for opened, error in zip(
            closing, run_all(self._ports.flushes, calls, MirrorlogError), strict=True
        ):  # 2
            if error is None:
                flushed[opened.name] = opened
            else:
                failures.append(error)
        is_broken = True
        while is_broken:
            self._drain()  # 3
            self._drop_rejected(flushed, failures)
            self._publish_close(flushed)  # 4
            is_broken = self._histories.handle()
        self._drop_rejected(flushed, failures)
        with self._tracker.lock:
            entries = [ActivityEntry(ActivityOp.SETTLED, name) for name in flushed]
            if self._search is not None:
                volumes = [opened.volume for opened in flushed.values()]
                histories = self._search.histories
                entries += known_entries(self._parts, volumes, histories, follow=False)
            self._log.append(entries)  # 5
        reports = [report for report in self._reporter.reports() if report.volume in flushed]
        self._tracker.remove_volumes(flushed)
        self._reporter.close(reports)
        for name in flushed:
            del self._handles[name]
        if failures:
            raise failures[0]

    def _publish_close(self, closing: Mapping[str, OpenVolume]) -> None:
        """Publish the end of the session on these volumes, acknowledged."""
        with self._tracker.lock:
            for opened in closing.values():
                self._outbox.send(opened.volume, CommandKind.SESSION_CLOSE)
            for partition in self._tracker.partitions() - self._tracker.partitions(without=closing):
                self._outbox.send_close_for_all(partition)
        self._outbox.wait(until_break=True)

    def _drain(self) -> None:
        """Publish every write that ended before the call, also if a history breaks meanwhile."""
        self._tracker.drain()
        while self._histories.handle():
            self._tracker.drain()

    def _flush_unsettled(self, requests: Mapping[str, OpenRequest]) -> list[Volume]:
        """Flush the primaries of the volumes that are to be settled; return these volumes."""
        unsettled = [
            request.volume for name, request in requests.items() if self._parts.is_unsettled(name)
        ]
        calls = [requests[volume.volume].device.flush for volume in unsettled]
        self._ports.flushes.run(calls, lambda _: None)
        return unsettled

    def _drop_rejected(
        self, flushed: dict[str, OpenVolume], failures: list[MirrorlogError]
    ) -> None:
        """Move volumes of which the node refused a command from `flushed` to `failures`."""
        for name in [name for name in flushed if name in self._outbox.rejected]:
            del flushed[name]
            failures.append(self._outbox.rejected[name])

    def _new_outbox(self, name: str, deadline_s: float) -> Outbox:
        settings, ports = self._settings, self._ports
        return Outbox(
            CommandSource(settings.topics.commands, name, self.session, self._end_asker()),
            ports.publisher,
            Spool(ports.folder, self.session, limit_bytes=settings.host_spool_bytes),
            ports.clock,
            PublishLimits(queue_bytes=settings.host_queue_bytes, away_s=settings.host_away_s),
            OutboxCallbacks(
                log_entries=self._log.append,
                on_rejected=self._on_rejected,
                on_spool_lost=self._on_spool_lost,
                report=self._report,
            ),
            deadline_s=deadline_s,
            confirmations=self._new_confirmations(name),
        )

    def _end_asker(self) -> Callable[[int], int] | None:
        sessions = self._ports.sessions
        if not self._settings.host_key or sessions is None:
            return None
        return partial(sessions.admin.end_position, self._settings.topics.commands)

    def _new_confirmations(self, name: str) -> Confirmations | None:
        if not self._settings.confirms_recorded:
            return None
        if self._ports.statuses is None:
            raise BadUse(
                "commands are to be confirmed when they are recorded, but nobody reads the statuses"
            )
        return Confirmations(self._ports.statuses, self._settings.topics.status, name)

    def _on_rejected(self, volume: str, error: BadInput) -> None:
        self._report(str(error))
        self._tracker.reject(volume, error)

    def _on_spool_lost(self, volumes: Collection[str]) -> None:
        self._report("the host's spool can't be read")
        self._tracker.fall_back_to_whole_volume(volumes)
