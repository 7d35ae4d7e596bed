"""One session of a host: what the last one left behind is published, volumes are opened, written to and closed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, DeviceOpener
from mirrorlog.ports.folders import StateFolder
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.batches.batch import region_batches, whole_volume
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp, VolumeActivity
from mirrorlog.producers.durable.activity_log import (
    SLOTS,
    ActivityLog,
    carry_over,
    read_previous_log,
)
from mirrorlog.producers.durable.spool import Spool, remove_spool
from mirrorlog.producers.durable.spool_recovery import PreviousSpool
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.forks.forked_volume import ForkPorts
from mirrorlog.producers.publishing.confirmations import Confirmations, StatusPorts
from mirrorlog.producers.publishing.outbox import CommandSource, Outbox, OutboxCallbacks
from mirrorlog.producers.publishing.publish_queue import PublishLimits
from mirrorlog.producers.session.fence import others_open, refusal
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.producers.writes.write_tracker import WIDENED, OpenVolume, WriteTracker
from mirrorlog.reading.open_sessions import SessionPorts, open_before
from mirrorlog.settings import Settings
from mirrorlog.units import format_size

DEADLINE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class HostPorts:
    """The world outside of a host. One StateFolder belongs to one host name for good: its past lies there.

    statuses: the node's answers, needed where the settings say that commands are confirmed when they are recorded. forks:
    needed where a volume is forked.
    sessions: how to find out who else has a volume open; without it nobody is asked.
    """

    folder: StateFolder
    publisher: Publisher
    clock: Clock
    open_device: DeviceOpener
    statuses: StatusPorts | None = None
    sessions: SessionPorts | None = None
    forks: ForkPorts | None = None


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A volume to open, on its primary.

    newly_created: no one can have written to it before this host. Where that is False and the activity log doesn't vouch
    for the volume (it was missing or damaged, or the volume was never opened through it) the whole volume is dirty: a
    tracker may have been off. take_over: sessions of other hosts that are gone for good. on_close: what TrackedVolume.close()
    does, instead of closing the volume alone. forks: the secondaries that its writes go to, too.
    """

    volume: Volume
    device: BlockDevice
    newly_created: bool
    take_over: Collection[str] = ()
    on_close: Callable[[], None] | None = None
    forks: ForkPlan | None = None


class Host:
    """One session. Any number of threads may use it; one of them calls tick() every few milliseconds.

    Let signals set a flag: an exception that one raises at any point (KeyboardInterrupt) may leave a write between two
    steps, in flight for ever.

    commands, extents, last_positions: what this session published, and by volume the position of its last acknowledged
    command.
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
        """Starts the session. Whatever happens between two of these steps, the next start repeats them and loses nothing.

        1. The folder is locked: the session before is dead, nothing of it is in flight.
        2. Its activity log is read, and its spool. A log that isn't there, or is damaged, vouches for no volume; a spool that
           doesn't hold what the log counts on makes every volume dirty that it was to name writes of.
        3. This session's log takes its place, durably. It says all that the old one owes, the regions of all that the spool
           names, and that this session is open, too, on the volumes that step 4 publishes for. The spool isn't needed any
           more: it only tells more exactly what is dirty.
        4. What is owed is published and forgotten: see _settle(). Volumes that aren't in `volumes`, or whose primary
           can't be flushed, are told to `report` and stay in the log, until a later start or open() can settle them.
        5. The old spool is removed.

        volumes: every volume there is, by name. deadline_s: how long an acknowledgement is waited for. log_slots: how many
        additions the activity log takes, about, before it is written anew.
        Errors: BadUse where another host holds the folder, DeviceFailed where the folder can't be written, KafkaFailed.
        """
        self._settings: Final = settings
        self._report: Final = report
        self._ports: Final = ports
        self._handles: Final[dict[str, TrackedVolume]] = {}
        ports.folder.lock()  # 1
        with ExitStack() as undo:
            undo.callback(ports.folder.close)
            leftover = read_previous_log(ports.folder)  # 2
            if leftover.damaged:
                report(
                    "the activity log is damaged: every volume that isn't newly created counts as dirty"
                )
            self.session: Final = new_session()
            state = carry_over(leftover, settings.region_bytes, volumes)
            spool = PreviousSpool(ports.folder, leftover)
            for lost in spool.lost:
                report(f"volume {lost} counts as dirty as a whole: the host's spool is damaged")
                state.volumes[lost].covered = False
            settling = [volumes[name] for name in sorted(leftover.volumes) if name in volumes]
            for volume in settling:
                state.volumes[volume.volume].sessions.add(self.session)
            owed = {
                name: replace(each, regions=set(each.regions))
                for name, each in state.volumes.items()
            }
            spool.cover(state, settings.region_bytes, settings.hot_regions)
            self._log: Final = ActivityLog(
                ports.folder, self.session, settings.region_bytes, state, log_slots
            )  # 3
            undo.callback(self._log.close)
            self._outbox: Final = self._make_outbox(name, deadline_s)
            undo.callback(self._outbox.close)
            self._tracker: Final = WriteTracker(
                self._log, self._outbox, ports.clock, settings, report
            )
            for unknown in sorted(leftover.volumes.difference(volumes)):
                report(
                    f"volume {unknown} may hold unpublished writes, but it isn't known: they stay in the activity log"
                )
            durable = {volume.volume: volume for volume in settling if self._made_durable(volume)}
            with self._tracker.lock:
                for record in spool.records():
                    if record.volume in durable:
                        self._outbox.resend(record)
            self._settle(list(durable.values()), owed, reopened=False)  # 4
            remove_spool(ports.folder)  # 5
            undo.pop_all()

    @property
    def commands(self) -> int:
        return self._outbox.commands

    @property
    def extents(self) -> int:
        return self._outbox.extents

    @property
    def last_positions(self) -> Mapping[str, int]:
        return self._outbox.last_positions

    def open(self, volume: Volume, device: BlockDevice, newly_created: bool) -> TrackedVolume:
        """open_all() of one."""
        return self.open_all([OpenRequest(volume, device, newly_created)])[volume.volume]

    def open_all(self, openings: Iterable[OpenRequest]) -> dict[str, TrackedVolume]:
        """Opens volumes, however many, with one wait for all (two where something is owed for one). The devices stay the
        caller's; close them after the volumes.

        1. Nothing is open already or retired, and each primary is as large as its volume: else BadUse, and nothing was done.
        2. The activity log says, durably, that the session is open on each; it vouches for those newly created.
        3. The primaries of the volumes for which something is owed are flushed.
        4. SESSION_OPEN of each is published, acknowledged.
        5. No other host that was earlier has one of them open: see _stand_alone(). Otherwise the sessions end again.
        6. What is owed is published: see _settle(). Acknowledged, writes may begin.

        Errors: those of step 1, and BadUse where another host has one open; DeviceFailed, KafkaFailed, and BadInput where
        the node refused a command: none is open then, and what was owed still is.
        """
        wanted = {opening.volume.volume: opening for opening in openings}
        self._check(wanted.values())  # 1
        with self._tracker.lock:
            self._log.append(self._session_opens(wanted.values()))  # 2
        owing = [opening.volume for name, opening in wanted.items() if self._owes(name)]
        for volume in owing:
            wanted[volume.volume].device.flush()  # 3
        with self._tracker.lock:
            for opening in wanted.values():
                self._outbox.send(opening.volume, CommandKind.SESSION_OPEN)  # 4
        if self._ports.sessions is not None:
            try:
                self._stand_alone(wanted, self._ports.sessions)  # 5
            except MirrorlogError:
                with suppress(
                    MirrorlogError
                ):  # it stays in the activity log then, and the next start closes it
                    self._withdraw(wanted)
                raise
        self._settle(owing, self._log.state.volumes, reopened=True)  # 6
        for name in wanted:
            if name in self._outbox.rejected:
                raise self._outbox.rejected[name]
        return {name: self._admit(opening) for name, opening in wanted.items()}

    def tick(self, now_s: float) -> None:
        """Sends the batches and heartbeats that are due at `now_s` (monotonic), and takes acknowledgements. Never waits."""
        self._tracker.tick(now_s)

    def pause(self, timeout_s: float) -> None:
        """tick(), then waits for an acknowledgement, at most so long."""
        self._tracker.tick(self._ports.clock.monotonic_s())
        self._outbox.poll(timeout_s)

    def drain(self) -> None:
        """Every write that ended before is in Kafka, acknowledged, when it returns. BadInput where the node refused one."""
        self._tracker.drain()
        for error in self._outbox.rejected.values():
            raise error

    def close(self) -> None:
        """Closes all volumes, and the session. What can't be closed cleanly stays in the activity log, for the next start.

        Raises the first error, with all volumes done that could be.
        """
        try:
            self._close_volumes(list(self._handles))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Lets go of the state folder, as a crash does: the next start publishes what was hot."""
        self._tracker.let_go()
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
        with suppress(MirrorlogError):  # the error that ended the session is the one to hear of
            self.close()

    def _stand_alone(self, openings: Mapping[str, OpenRequest], sessions: SessionPorts) -> None:
        """BadUse where another session may write to one of the volumes, unless it is `shared`, or that one is to be taken over.

        Of two hosts that open at once, the one whose SESSION_OPEN has the lower position finds nobody, and the other finds
        it: nothing but the order in the partition decides. Taking over, the primary is flushed first, as in _settle():

        1. The whole volume is marked dirty, acknowledged: only the other host's activity log knew what it hadn't published.
        2. Its session is closed: sites wait for it no longer.
        """
        self._outbox.wait_published()
        clock, topics = self._ports.clock, self._settings.topics
        volumes = {name: opening.volume for name, opening in openings.items()}
        states, positions = self._log.state.volumes, self._outbox.last_positions
        others = others_open(
            {name: positions[name] for name in volumes},
            volumes,
            {name: states[name].sessions | self._log.state.lost for name in volumes},
            lambda wanted: open_before(wanted, volumes, sessions, topics, clock),
        )
        taken = [each for each in others if each.session in openings[each.volume].take_over]
        if len(taken) < len(others):
            raise refusal([each for each in others if each not in taken])
        for name in {each.volume for each in taken}:
            openings[name].device.flush()
            self._report(f"volume {name} counts as dirty as a whole: it was taken over")
            with self._tracker.lock:
                note = "taken over from a host that is gone"
                self._outbox.send(
                    volumes[name],
                    CommandKind.MARK_DIRTY,
                    whole_volume(volumes[name].size_bytes),
                    note=note,
                )  # 1
        self._outbox.wait_published()
        with self._tracker.lock:
            for each in taken:
                volume, note = volumes[each.volume], f"taken over from host '{each.host}'"
                self._outbox.send(
                    volume, CommandKind.SESSION_CLOSE, for_session=each.session, note=note
                )  # 2
        self._outbox.wait_published()

    def _withdraw(self, openings: Mapping[str, OpenRequest]) -> None:
        """Nothing was written: the session ends on these volumes. What was owed for one before still is."""
        with self._tracker.lock:
            for opening in openings.values():
                self._outbox.send(opening.volume, CommandKind.SESSION_CLOSE)
        self._outbox.wait_published()
        with self._tracker.lock:
            self._log.append(
                [
                    ActivityEntry(ActivityOp.SETTLED, name)
                    for name in openings
                    if not self._owes(name)
                ]
            )

    def _close_volumes(self, names: Collection[str]) -> None:
        """The end of a session on some volumes.

        1. No write begins any more; those in flight end.
        2. The primaries are flushed. A volume where that fails keeps its regions in the activity log: step 4 and 5 pass
           it over, and one of which the node refused a command.
        3. The open batches are published: acknowledged.
        4. SESSION_CLOSE of each is published, and one for all volumes of a partition where none stays open:
           acknowledged.
        5. The activity log says that nothing is owed, durably.
        """
        closing = [self._tracker.volumes[name] for name in names if name in self._handles]
        if not closing:
            return
        for opened in closing:
            self._tracker.ground(opened)  # 1
        failures: list[MirrorlogError] = []
        flushed: dict[str, OpenVolume] = {}
        for opened in closing:
            try:
                self._tracker.flush(opened)  # 2
                flushed[opened.name] = opened
            except MirrorlogError as error:
                failures.append(error)
        self._tracker.drain()  # 3
        self._pass_over_rejected(flushed, failures)
        with self._tracker.lock:
            for opened in flushed.values():
                self._outbox.send(opened.volume, CommandKind.SESSION_CLOSE)  # 4
            for partition in self._tracker.partitions() - self._tracker.partitions(without=flushed):
                self._outbox.send_close_for_all(partition)
        self._outbox.wait()
        self._pass_over_rejected(flushed, failures)
        with self._tracker.lock:
            self._log.append([ActivityEntry(ActivityOp.SETTLED, name) for name in flushed])  # 5
        self._tracker.dismiss(flushed)
        for name in flushed:
            del self._handles[name]
        if failures:
            raise failures[0]

    def _pass_over_rejected(
        self, flushed: dict[str, OpenVolume], failures: list[MirrorlogError]
    ) -> None:
        for name in [name for name in flushed if name in self._outbox.rejected]:
            del flushed[name]
            failures.append(self._outbox.rejected[name])

    def _settle(
        self, volumes: Collection[Volume], states: Mapping[str, VolumeActivity], *, reopened: bool
    ) -> None:
        """Publishes what the activity log owes for these volumes, whose primaries are flushed: what a site reads there
        now, no power cut takes back. states: by volume; what the spool names was sent already.

        1. MARK_DIRTY of the regions that were hot, or of the whole volume: acknowledged.
        2. SESSION_CLOSE of each session that is open on it, of this one too unless it is `reopened`, and one for all
           volumes of a partition where an old session is open on no other: acknowledged. Only now may a site stop
           waiting for them.
        3. The activity log forgets it; lost in a crash, that only repeats all this.

        A volume of which the node refuses a command is passed over from there on: what it owes stays.
        """
        if not volumes:
            self._outbox.wait_published()
            return
        owed = {volume.volume: states[volume.volume] for volume in volumes}
        with self._tracker.lock:
            for volume in volumes:
                self._mark_dirty(volume, owed[volume.volume])  # 1
        self._outbox.wait()
        volumes = self._taken(volumes)
        with self._tracker.lock:
            for volume in volumes:
                self._close_sessions(volume, owed[volume.volume], reopened)  # 2
            for session, partition in self._ended(volumes):
                self._outbox.send_close_for_all(partition, for_session=session)
        self._outbox.wait()
        volumes = self._taken(volumes)
        with self._tracker.lock:
            settled = [ActivityEntry(ActivityOp.SETTLED, volume.volume) for volume in volumes]  # 3
            opened = [
                ActivityEntry(ActivityOp.OPENED, volume.volume, session=self.session)
                for volume in volumes
                if reopened
            ]
            self._log.append([*settled, *opened])

    def _taken(self, volumes: Collection[Volume]) -> list[Volume]:
        return [volume for volume in volumes if volume.volume not in self._outbox.rejected]

    def _make_outbox(self, name: str, deadline_s: float) -> Outbox:
        settings, ports = self._settings, self._ports
        return Outbox(
            CommandSource(settings.topics.commands, name, self.session),
            ports.publisher,
            Spool(ports.folder, self.session, limit_bytes=settings.host_spool_bytes),
            ports.clock,
            PublishLimits(settings.host_queue_bytes, settings.host_away_s),
            OutboxCallbacks(self._log.append, self._rejected, self._lost),
            deadline_s=deadline_s,
            confirmations=self._confirmations(name),
        )

    def _lost(self, names: Collection[str]) -> None:
        self._report("the host's spool can't be read")
        self._tracker.widen(names)

    def _confirmations(self, name: str) -> Confirmations | None:
        if self._settings.host_confirm == "published":
            return None
        if self._ports.statuses is None:
            raise BadUse(
                "commands are to be confirmed when they are recorded, but nobody reads the statuses"
            )
        return Confirmations(self._ports.statuses, self._settings.topics.status, name)

    def _rejected(self, name: str, error: BadInput) -> None:
        self._report(str(error))
        self._tracker.reject(name, error)

    def _mark_dirty(self, volume: Volume, owed: VolumeActivity) -> None:
        if not owed.is_whole_volume_dirty:
            most, note = (
                self._settings.host_batch_extents,
                "recovered: hot when a session ended without a close",
            )
            if owed.regions:
                size_bytes = min(len(owed.regions) * self._settings.region_bytes, volume.size_bytes)
                self._report(
                    f"volume {volume.volume}: a session ended without a close; up to {format_size(size_bytes)} count as dirty"
                )
            for batch in region_batches(
                owed.regions, self._settings.region_bytes, volume.size_bytes, most
            ):
                self._outbox.send(volume, CommandKind.MARK_DIRTY, batch, note=note)
            return
        note = (
            "recovered: the host's activity log doesn't vouch for the volume's past"
            if not owed.covered
            else WIDENED
        )
        self._report(f"volume {volume.volume} counts as dirty as a whole: {note}")
        self._outbox.send(
            volume, CommandKind.MARK_DIRTY, whole_volume(volume.size_bytes), note=note
        )

    def _close_sessions(self, volume: Volume, owed: VolumeActivity, reopened: bool) -> None:
        others = owed.sessions if owed.covered else owed.sessions | self._log.state.lost
        for session in sorted(others - {self.session}):
            self._outbox.send(
                volume, CommandKind.SESSION_CLOSE, for_session=session, note="recovered"
            )
        if not reopened:
            self._outbox.send(volume, CommandKind.SESSION_CLOSE)

    def _ended(self, settling: Collection[Volume]) -> set[tuple[str, int]]:
        """(session, partition) of the old sessions that are open on none but these volumes, as far as a sound log can say."""
        partitions = {volume.volume: volume.partition for volume in settling}
        everywhere = self._log.state.volumes
        elsewhere = {
            s
            for name, state in everywhere.items()
            if name not in partitions
            for s in state.sessions
        }
        return {
            (session, partition)
            for name, partition in partitions.items()
            for session in everywhere[name].sessions
            - elsewhere
            - self._log.state.lost
            - {self.session}
        }

    def _made_durable(self, volume: Volume) -> bool:
        """What survived on the primary is durable; False, and reported, where it can't be flushed."""
        try:
            with self._ports.open_device(volume.primary, writable=False) as device:
                device.flush()
        except MirrorlogError as error:
            self._report(
                f"volume {volume.volume} may hold unpublished writes, which stay in the activity log: {error}"
            )
            return False
        return True

    def _check(self, openings: Collection[OpenRequest]) -> None:
        for opening in openings:
            name, size_bytes = opening.volume.volume, opening.volume.size_bytes
            if name in self._handles:
                raise BadUse(
                    "the volume is open already", where=f"volume {name}", next="Close it first."
                )
            if opening.volume.is_retired:
                where = f"volume {name}, position {opening.volume.described_position}"
                raise BadUse("the volume is retired", where=where, next="Create a new one.")
            if opening.device.size_bytes < size_bytes:
                raise BadUse(
                    f"the primary has {opening.device.size_bytes} bytes, the volume {size_bytes}",
                    where=f"volume {name}",
                    next="Grow the primary.",
                )
            if opening.forks is not None:
                self._check_forks(opening.volume)

    def _check_forks(self, volume: Volume) -> None:
        where = f"volume {volume.volume}"
        if volume.shared:
            raise BadUse(
                "a shared volume can't be forked: nobody orders the writes of two hosts",
                where=where,
                next="Leave --fork out: its sites follow the log.",
            )
        if self._ports.forks is None:
            raise BadUse(
                "a volume is forked, but this host has nothing to write to secondaries with",
                where=where,
            )

    def _session_opens(self, openings: Collection[OpenRequest]) -> Iterable[ActivityEntry]:
        for opening in openings:
            name = opening.volume.volume
            if opening.newly_created and name not in self._log.state.volumes:
                yield ActivityEntry(ActivityOp.SETTLED, name)
            yield ActivityEntry(ActivityOp.OPENED, name, session=self.session)

    def _owes(self, name: str) -> bool:
        state = self._log.state.volumes[name]
        return (
            state.is_whole_volume_dirty
            or state.spooled
            or bool(state.regions)
            or state.sessions != {self.session}
        )

    def _admit(self, opening: OpenRequest) -> TrackedVolume:
        opened = self._tracker.admit(
            opening.volume, opening.device, opening.forks, self._ports.forks
        )
        close = opening.on_close
        on_close = (lambda _: close()) if close else (lambda name: self._close_volumes([name]))
        handle = TrackedVolume(opened, self._tracker, on_close)
        self._handles[opening.volume.volume] = handle
        return handle
