"""A site: it reads the tracking log and keeps its secondaries up to date by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final
from uuid import uuid4

from mirrorlog.consumers.resync.cycle import (
    AdvancePosition,
    CycleInput,
    CycleStep,
    Idle,
    MarkConsistent,
    Resync,
    SkipInitialCopy,
    next_step,
)
from mirrorlog.consumers.resync.failure_log import FailureLog
from mirrorlog.consumers.resync.history_watch import HistoryWatch
from mirrorlog.consumers.resync.log_lag import LogFreshness, LogLag
from mirrorlog.consumers.resync.meetings import Failed, SecondaryMeetings
from mirrorlog.consumers.resync.reporting import (
    ProgressReporter,
    ReportedReplica,
    SiteSummary,
    summarize_site,
)
from mirrorlog.consumers.resync.restoration import (
    bytes_to_copy,
    restore_all,
    restore_changed,
)
from mirrorlog.consumers.resync.samples import (
    SampleTaker,
    SampleVerdict,
    joined_samples,
    moved_samples,
    samples_without,
    verdict_of,
)
from mirrorlog.consumers.resync.secondaries import Secondaries
from mirrorlog.consumers.resync.secondary import Secondary, needed_after, split_positions
from mirrorlog.consumers.resync.state_changes import OnChange, StateChanges
from mirrorlog.consumers.resync.traced_cycles import CycleTraces
from mirrorlog.consumers.state.secondary_state import SecondaryState, SecondaryStateStore
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.ports.tracing import Tracer
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import Watermark, counts_for
from mirrorlog.tracking_log.keys import missed_log, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog

log = logging.getLogger("mirrorlog.site")

_RETRY_S: Final = 5.0
"""The time for which a secondary waits after a failure of its device."""
_MEASURE_S: Final = 2.0
"""How long a site asks what a primary has allocated, to say when its copy will end."""
_CHECK_S: Final = 30.0
"""How often the site looks whether its idle secondaries are still there, and the same."""
_SAVED_TOGETHER: Final = 64
"""How many secondaries have their states saved together. More means fewer waits for the disk, and
later reports."""


@dataclass(frozen=True, slots=True)
class SitePorts:
    """The ports that a site needs.

    open_reader: opens a reader of any topic, for one message. The site closes it.
    draw_id: returns a new UUID in canonical form.
    keep_name: called in each round and after each run of blocks. It raises BadUse if another
        process runs the site (NameFence.keep).
    note_caught_up: called at the end of each round that took everything that the log held
        (NameFence.note_caught_up).
    ask_end: returns where a partition's commands end, soon; None if Kafka doesn't answer.
    on_change: takes each change of state of a secondary.
    tracer: takes a span for each cycle; None: nothing is traced.
    """

    log: LogReader
    catalog: Catalog
    admin: TopicAdmin
    publisher: Publisher
    states: SecondaryStateStore
    secondaries: Secondaries
    open_reader: Callable[[], TopicReader]
    clock: Clock
    draw_id: Callable[[], str] = lambda: str(uuid4())
    keep_name: Callable[[], None] = lambda: None
    note_caught_up: Callable[[], None] = lambda: None
    ask_end: Callable[[int], int | None] = lambda _: None
    on_change: OnChange = lambda _: None
    tracer: Tracer | None = None


class Site:
    """Mirrors every volume of the catalog. One thread calls it.

    secondaries: by volume, to read.
    worked_at_us: when it last did a round or copied a run of blocks, microseconds since 1970.
    """

    def __init__(self, name: str, ports: SitePorts, settings: Settings) -> None:
        self.name, self._ports, self._settings = name, ports, settings
        self._secondaries: dict[str, Secondary] = {}
        self.secondaries: Final[Mapping[str, Secondary]] = MappingProxyType(self._secondaries)
        self._reporter = ProgressReporter(
            name, ports.publisher, settings.topics.progress, ports.clock, settings.site_report_s
        )
        self.worked_at_us = ports.clock.now_us()
        self._failures = FailureLog(name, ports.clock)
        self._changes = StateChanges(ports.clock, ports.on_change)
        self._log_lag, self._freshness = LogLag(), LogFreshness()
        self._lagging: Mapping[int, int] = {}
        self._meetings = SecondaryMeetings(name, ports.secondaries, self._save, ports.draw_id)
        self._checked_at_s = ports.clock.monotonic_s()
        self._histories = HistoryWatch(
            ports.open_reader,
            ports.admin,
            settings.topics.commands,
            ports.clock,
            settings.patience_s,
        )
        # What is to be held against the commands topic: saved positions of volumes, and the log.
        self._unchecked: set[str] = set()
        self._partitions_to_check: set[int] = set()
        # Volumes that may need a step or a report, and volumes whose reads are over.
        self._active: set[str] = set()
        self._awaiting_read_end: set[str] = set()

    def run_once(self, timeout_s: float) -> None:
        """Read what has arrived, then take a step with each volume that needs one.

        1. LogReader.poll reads the log, and Catalog.poll the descriptions.
        2. _ask_read_ends asks for the end of the commands topic where the reads of a cycle are
           over.
        3. _check_histories holds new secondaries' positions, and now and then the log, against the
           commands topic.
        4. _advance: next_step (cycle.py) decides for each volume, and _run_cycles copies.
        5. ProgressReporter.report publishes what is due.

        Steps 3 to 5 are left out until the reader has caught up with the log.
        Wait up to `timeout_s` for the log. Raise KafkaFailed, OutOfRetention, BadInput (an event of
        the log or a description is damaged), BadUse (another process runs the site) or DeviceFailed
        (of the state store): the site can't go on then. A device of one volume stops that volume
        only.
        """
        self._keep_name()
        touched = self._ports.log.poll(timeout_s, self._is_needed)
        self._ports.catalog.poll(0)
        if any(self._has_newer_description(name) for name in touched):
            self._ports.catalog.refresh()
        for name in touched & self._secondaries.keys():
            self._forget_rolled_up(self._secondaries[name])
        touched |= self._follow_catalog() | self._ask_read_ends() | self._due_for_a_check()
        self._active |= touched
        if not self._ports.log.caught_up():
            return
        self._active |= self._follow_log_lag()
        touched |= self._check_histories(touched)
        active = [
            self._secondaries[name] for name in sorted(self._active & self._secondaries.keys())
        ]
        due = [
            secondary
            for secondary in active
            if secondary.volume.volume in touched or secondary.is_due(self._watermark(secondary))
        ]
        for start in range(0, len(due), _SAVED_TOGETHER):
            self._advance(due[start : start + _SAVED_TOGETHER])
        for secondary in active:
            self._report_and_go_idle(secondary)
        self._reporter.poll()
        self._ports.note_caught_up()

    def progress(self, secondary: Secondary) -> SiteProgress:
        """Return the progress of a secondary as of now."""
        return self._reporter.progress_of(secondary, self._cycle_input(secondary))

    def summary(self) -> SiteSummary:
        """Return the summary of all secondaries."""
        return summarize_site(self.name, self._secondaries.values())

    def reported(self) -> list[ReportedReplica]:
        """Return all secondaries as they were reported last. Any thread may call it."""
        return self._reporter.reported()

    def log_complete_us(self, partition: int) -> int | None:
        """Return when the log was last known to hold all commands (LogFreshness.complete_us)."""
        return self._freshness.complete_us(partition)

    def now_us(self) -> int:
        """Return the time by the site's clock, in microseconds since 1970."""
        return self._ports.clock.now_us()

    def _keep_name(self) -> None:
        self._ports.keep_name()
        self.worked_at_us = self._ports.clock.now_us()

    # The catalog

    def _has_newer_description(self, name: str) -> bool:
        """Return whether the log is by a newer description of the volume than the site has."""
        known, head = self._ports.catalog.get(name), self._ports.log.logs[name].head
        return known is None or (
            head is not None and (head.epoch, head.described_position) > known.description_order
        )

    def _follow_catalog(self) -> set[str]:
        """Take new descriptions; return their volumes."""
        changed = set()
        for name, volume in self._ports.catalog.items():
            secondary = self._secondaries.get(name)
            if secondary is None:
                changed.add(name)
                self._add(volume)
            elif secondary.volume != volume:
                changed.add(name)
                secondary.describe(volume)
        return changed

    def _add(self, volume: Volume) -> None:
        self._ports.log.follow_partition(volume.partition)
        secondary = self._secondaries[volume.volume] = Secondary(volume)
        self._awaiting_read_end.add(volume.volume)
        self._load(secondary)

    def _load(self, secondary: Secondary) -> bool:
        """Load the saved state unless it is loaded. Return False if that failed.

        The site tries again later: what can't be read now may say that nothing is to be copied.
        A damaged state is never guessed: the secondary counts as unknown, and all of it is copied.
        """
        if secondary.is_loaded:
            return True
        self._unchecked.add(secondary.volume.volume)
        try:
            secondary.note_saved(self._ports.states.load(secondary.volume.volume))
        except StateDamaged as error:
            log.error("%s", error)
            secondary.note_damaged(str(error))
        except DeviceFailed as error:
            self._stop(secondary, error)
            return False
        self._forget_applied(secondary)
        return True

    def _due_for_a_check(self) -> set[str]:
        """Return all volumes if it is time to look whether idle secondaries are still there."""
        now_s = self._ports.clock.monotonic_s()
        if now_s - self._checked_at_s < _CHECK_S:
            return set()
        self._checked_at_s = now_s
        self._partitions_to_check |= self._ports.log.watermarks.keys()
        return set(self._secondaries)

    def _follow_log_lag(self) -> set[str]:
        """Find the partitions whose log lags. Return the volumes of which that has changed.

        They are reported again: how far they are behind is unknown, or known again.
        """
        now_s, before = self._ports.clock.monotonic_s(), self._lagging
        if self._log_lag.is_due(now_s):
            partitions = {each.volume.partition for each in self._secondaries.values()}
            ends = {partition: self._ports.ask_end(partition) for partition in sorted(partitions)}
            known = {partition: end for partition, end in ends.items() if end is not None}
            self._log_lag.note_ends(known, now_s)
            self._freshness.note_ends(known, self._ports.clock.now_us())
            self._partitions_to_check |= {
                partition
                for partition, mark in self._ports.log.watermarks.items()
                if mark.through >= known.get(partition, mark.through + 1)
            }  # impossible in one history: _check_histories says what happened
        marks = self._ports.log.watermarks
        watermarks = {key: mark.through for key, mark in marks.items()}
        self._freshness.note_watermarks(watermarks)
        self._lagging = self._log_lag.lagging(watermarks)
        changed = before.keys() ^ self._lagging.keys()
        if not changed:
            return set()
        return {
            name for name, each in self._secondaries.items() if each.volume.partition in changed
        }

    def _check_histories(self, touched: set[str]) -> set[str]:
        """Hold the log and saved positions against the commands topic, where that is due.

        touched: volumes of which the log has something new.
        Return the volumes about which something else can be said now.
        """
        partitions = {self._secondaries[name].volume.partition for name in self._unchecked}
        partitions |= (
            self._partitions_to_check
            | {
                self._secondaries[name].volume.partition
                for name in touched & self._secondaries.keys()
            }
            & self._histories.ended.keys()
        )
        changed: set[str] = set()
        for partition in partitions & self._ports.log.watermarks.keys():
            names = {
                name
                for name, secondary in self._secondaries.items()
                if secondary.volume.partition == partition
            }
            loaded = (self._secondaries[name].saved for name in names & self._unchecked)
            saved = [state for state in loaded if state is not None]
            if self._histories.look(partition, self._ports.log.watermarks[partition], saved):
                changed |= names
            self._unchecked -= names
            self._partitions_to_check.discard(partition)
        self._active |= changed
        return changed

    # Steps

    def _ask_read_ends(self) -> set[str]:
        """Ask where the commands topic ends now that reads are over, once for each partition.

        Return the volumes whose reads were over.
        """
        topic = self._settings.topics.commands
        waiting = [self._secondaries[name] for name in self._awaiting_read_end]
        ends = {
            partition: self._ports.admin.end_position(topic, partition)
            for partition in {secondary.volume.partition for secondary in waiting}
        }
        self._freshness.note_ends(ends, self._ports.clock.now_us())
        for secondary in waiting:
            partition = secondary.volume.partition
            secondary.note_read_end(ends[partition])
            watermark = self._ports.log.watermarks.get(partition)
            if watermark is not None and watermark.through >= ends[partition]:
                # It was read before the question: impossible in one history.
                self._partitions_to_check.add(partition)
        asked, self._awaiting_read_end = self._awaiting_read_end, set()
        return asked

    def _advance(self, secondaries: Sequence[Secondary]) -> None:
        """Take the next steps of these secondaries, until each is idle or has run one cycle.

        Each is met first: nothing is claimed of a secondary that isn't there, or isn't the same.
        States are saved for all of them together.
        """
        now_s = self._ports.clock.monotonic_s
        looking = self._meet(
            [
                secondary
                for secondary in secondaries
                if secondary.begin_look(now_s(), self._watermark(secondary))
                and self._load(secondary)
            ]
        )
        cycles: list[tuple[Secondary, Resync]] = []
        while looking:
            to_save: list[tuple[Secondary, SecondaryState]] = []
            for secondary in looking:
                match self._next_step(secondary):
                    case Idle() as step:
                        secondary.go_idle(step)
                        if step.state is SiteState.STOPPED:
                            self._failures.stopped(secondary.volume.volume, step.reason or "")
                    case Resync() as step:
                        cycles.append((secondary, step))
                    case SkipInitialCopy(state):
                        to_save.append((secondary, state))
                    case MarkConsistent(state) | AdvancePosition(state):
                        log_of = self._log(secondary.volume.volume)
                        samples = moved_samples(secondary.volume, secondary.saved, state, log_of)
                        to_save.append((secondary, replace(state, samples=samples)))
            self._save(to_save)
            looking = [secondary for secondary, _ in to_save]
        if cycles:
            self._run_cycles(cycles)

    def _meet(self, secondaries: Sequence[Secondary]) -> list[Secondary]:
        """Meet secondaries. Return those whose next step may be taken."""
        new = [secondary for secondary in secondaries if not secondary.is_met]
        failed = self._meetings.meet_all(
            [secondary for secondary in secondaries if not secondary.volume.is_retired]
        )
        self._stop_all(failed)
        for secondary in new:
            if secondary.differing:
                secondary.note_reading()
                self._awaiting_read_end.add(secondary.volume.volume)
        stopped = {secondary for secondary, _ in failed}
        return [secondary for secondary in secondaries if secondary not in stopped]

    def _next_step(self, secondary: Secondary) -> CycleStep:
        """Return the next step of a secondary that was met.

        Start over first if it doesn't hold what earlier cycles wrote (samples.py).
        """
        if (step := self._step_of_ended_history(secondary)) is not None:
            return step
        cycle_input, saved = self._cycle_input(secondary), secondary.saved
        if secondary.differing and saved is not None:
            verdict = verdict_of(secondary.differing, saved.applied_position, cycle_input)
            if verdict is SampleVerdict.WAIT:
                if saved.consistent_position is not None:
                    self._save([(secondary, replace(saved, consistent_position=None))])
                return Idle(SiteState.SETTLING, "what cycles wrote has changed: by a fork?")
            secondary.note_differing(())
            if verdict is SampleVerdict.WENT_BACK:
                failed = self._meetings.start_over(
                    secondary, "the secondary has gone back in time: it lacks what was written"
                )
                if failed:
                    self._stop_all(failed)
                    return secondary.status
        return next_step(secondary.saved, self._cycle_input(secondary))

    def _step_of_ended_history(self, secondary: Secondary) -> CycleStep | None:
        """Return the step of a secondary whose log contradicts the commands topic; None otherwise.

        What was applied is forgotten, durably: if the topic grows past the position later, the
        position means something else. The same is done if only the saved position contradicts the
        topic: the secondary is copied in full then.
        """
        volume = secondary.volume
        if volume.is_retired:
            return None
        if volume.volume in self._unchecked:  # it was loaded a moment ago
            self._check_histories(set())
        ended = self._histories.ended.get(volume.partition)
        reason = ended or self._histories.take_other(volume.volume)
        saved = secondary.saved
        if reason is None or saved is None or saved.applied_position is None:
            failed = []
        else:
            failed = self._meetings.start_over(secondary, reason)
        if failed:
            self._stop_all(failed)
            return secondary.status
        return None if ended is None else Idle(SiteState.STOPPED, ended)

    def _run_cycles(self, cycles: Sequence[tuple[Secondary, Resync]]) -> None:
        """Run one cycle of each secondary. The order keeps every claim true (invariants 6 and 8):

        1. Check that the primary is the one that it was, and count the cycle in the mark of the
           secondary, durably (meeting.py says why the mark comes first).
        2. Save durably that a cycle runs: from here on the secondary is inconsistent, and every
           report says so. A cycle shorter than the interval of reports may have none.
        3. Read the blocks from the primary and write them to the secondary (restore_changed or
           restore_all).
        4. Flush the secondary: the blocks are durable.
        5. Save the new applied position durably. Reports from here on name it.
        6. Note that the last read is over. The next round asks for the end of the commands topic
           (_ask_read_ends), on which the proof of the cycle stands.

        A crash between any two steps repeats the cycle. If a device fails, its cycle ends there;
        the other cycles go on.
        """
        failed = self._meetings.begin_cycles(cycles)  # 1
        self._stop_all(failed)
        unable = {secondary for secondary, _ in failed}
        cycles = [cycle for cycle in cycles if cycle[0] not in unable]
        for secondary, step in cycles:
            secondary.begin_cycle(step.reason)
            self._changes.begin_cycle(secondary, step)
            if step.reason is not None:
                self._failures.took_rung(secondary.volume.volume, step.rung, step.reason)
        self._save([(secondary, step.running) for secondary, step in cycles])  # 2
        done = []
        traces = CycleTraces(
            self._ports.tracer, self._settings.topics.commands, self.name, self._ports.clock
        )
        for secondary, step in cycles:
            traces.begin(secondary, self._log(secondary.volume.volume).volume)
            try:
                state = self._copy(secondary, step)  # 3, 4
            except DeviceFailed as error:
                self._stop(secondary, error)
            else:
                traces.note_durable(secondary)
                secondary.end_cycle()
                done.append((secondary, state))
        self._save(done)  # 5
        traces.end(done)
        self._awaiting_read_end |= {secondary.volume.volume for secondary, _ in done}  # 6

    def _copy(self, secondary: Secondary, step: Resync) -> SecondaryState:
        """Copy the blocks of one cycle. They are durable on the secondary when it returns.

        Return the state to save.
        """

        def on_copied(blocks: int, size_bytes: int) -> None:
            secondary.note_copied(blocks, size_bytes, self._ports.clock.monotonic_s())
            self._keep_name()
            self._report(secondary)

        volume, run_bytes = secondary.volume, self._settings.site_copy_bytes
        samples = SampleTaker(f"{volume.volume} {step.done.applied_position}")
        self._report(secondary)
        primary, device = self._meetings.open_both(secondary)
        with primary, device:
            now_s = self._ports.clock.monotonic_s
            until_s = now_s() + _MEASURE_S
            total_bytes = bytes_to_copy(primary, volume, step.blocks, lambda: now_s() < until_s)
            secondary.begin_copy(total_bytes, now_s())
            if step.blocks is None:
                copied = restore_all(primary, device, volume, run_bytes, samples, on_copied)
            else:
                copied = restore_changed(
                    primary, device, volume, step.blocks, run_bytes, samples, on_copied
                )
            device.flush()
        log_of = self._log(volume.volume)
        older = moved_samples(volume, secondary.saved, step.done, log_of)
        if step.blocks is not None:
            older = samples_without(older, step.blocks, volume.block_size)
        return replace(step.done, rung=copied.rung, samples=joined_samples(samples.samples, older))

    def _save(self, states: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        """Save states durably, with the identities of their secondaries.

        Then drop the records that they make needless.
        """
        now_us = self._ports.clock.now_us()
        stamped = [
            (secondary, replace(state, updated_at_us=now_us, identity=secondary.identity))
            for secondary, state in states
        ]
        self._ports.states.save_all([state for _, state in stamped])
        for secondary, state in stamped:
            secondary.note_saved(state)
            self._forget_applied(secondary)

    def _stop(self, secondary: Secondary, error: DeviceFailed) -> None:
        self._failures.stopped(secondary.volume.volume, str(error))
        secondary.stop(
            str(error),
            retry_at_s=self._ports.clock.monotonic_s() + _RETRY_S,
            advice=error.next or None,
        )
        self._active.add(secondary.volume.volume)

    def _stop_all(self, failed: Sequence[Failed]) -> None:
        for secondary, error in failed:
            self._stop(secondary, error)

    # Reports

    def _report(self, secondary: Secondary) -> bool:
        """Report the secondary if that is due. Return whether it was."""
        if not self._reporter.is_due(secondary):
            return False
        self._reporter.report(secondary, self._cycle_input(secondary))
        return True

    def _report_and_go_idle(self, secondary: Secondary) -> None:
        self._failures.note_state(secondary.volume.volume, secondary.state)
        self._changes.look(secondary)
        if secondary.state is SiteState.CONSISTENT:
            secondary.forget_reason()
        is_final = secondary.state in (SiteState.CONSISTENT, SiteState.RETIRED)
        if self._report(secondary) and is_final:
            self._active.discard(secondary.volume.volume)

    # The log

    def _is_needed(self, record: LogRecord) -> bool:
        """Return whether a record covers more than its secondary has applied and proved."""
        secondary = self._secondaries.get(split_log_name(record.volume)[0])
        return secondary is None or record.through > needed_after(secondary.saved)

    def _forget_applied(self, secondary: Secondary) -> None:
        for volume_log in self._logs(secondary.volume.volume):
            volume_log.forget_through(needed_after(secondary.saved))

    def _forget_rolled_up(self, secondary: Secondary) -> None:
        volume = secondary.volume
        fork = self._log(volume.volume).fork
        positions = split_positions(volume, secondary.saved, fork)
        for volume_log in self._logs(volume.volume):
            volume_log.forget_rolled_up(positions)

    def _watermark(self, secondary: Secondary) -> Watermark | None:
        return self._ports.log.watermarks.get(secondary.volume.partition)

    def _cycle_input(self, secondary: Secondary) -> CycleInput:
        volume, read = secondary.volume, self._watermark(secondary)
        watermark = read if read is not None and counts_for(read, volume) else None
        history = watermark.history if watermark else None
        return CycleInput(
            volume=volume,
            log=self._log(volume.volume),
            watermark=None if watermark is None else watermark.through,
            history_id=history.id if history else None,
            anchor=watermark.anchor.hex() if watermark and watermark.anchor else None,
            is_other_history=read is not None and watermark is None,
            read_end=secondary.read_end,
            secondary_zeroed=secondary.is_zeroed,
            beats=self._ports.log.beats[volume.partition],
            unknown_reason=secondary.unknown_reason,
            awaited_position=self._lagging.get(volume.partition),
        )

    def _log(self, name: str) -> SiteLog:
        return SiteLog(*self._logs(name), self.name)

    def _logs(self, name: str) -> tuple[VolumeLog, VolumeLog]:
        """Return the volume's log, and the log of what this site has missed of the volume."""
        logs = self._ports.log.logs
        return logs[name], logs[missed_log(name, self.name)]
