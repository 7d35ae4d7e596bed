"""A site: it reads the tracking log and keeps its secondaries up to date by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from mirrorlog.consumers.resync.cycle import (
    AdvancePosition,
    CycleInput,
    Idle,
    MarkConsistent,
    Resync,
    SkipInitialCopy,
    next_step,
)
from mirrorlog.consumers.resync.failure_log import FailureLog
from mirrorlog.consumers.resync.reporting import ProgressReporter, SiteSummary, summarize_site
from mirrorlog.consumers.resync.restoration import Copied, restore_all, restore_changed
from mirrorlog.consumers.resync.secondary import Secondary, needed_after, split_positions
from mirrorlog.consumers.state.secondary_state import SecondaryState, SecondaryStateStore
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, StateDamaged
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.streams import Publisher, TopicAdmin
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import missed_log, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.site_log import SiteLog

log = logging.getLogger("mirrorlog.site")

_RETRY_S: Final = 5.0
"""The time for which a secondary waits after a failure of its device."""
_SAVED_TOGETHER: Final = 64
"""How many secondaries have their states saved together. More means fewer waits for the disk, and
later reports."""


@dataclass(frozen=True, slots=True)
class SitePorts:
    """The ports that a site needs.

    make_secondary: creates a secondary, all zeros, unless it is there already. The site calls it
        only while nothing is saved of the volume. A secondary that is gone later is an error: its
        file system may not be mounted, and zeros would pass for what was applied.
    """

    log: LogReader
    catalog: Catalog
    admin: TopicAdmin
    publisher: Publisher
    states: SecondaryStateStore
    open_primary: Callable[[Volume], BlockDevice]
    open_secondary: Callable[[Volume], BlockDevice]
    make_secondary: Callable[[Volume], None]
    clock: Clock


class Site:
    """Mirrors every volume of the catalog. One thread calls it.

    secondaries: by volume, to read.
    """

    def __init__(self, name: str, ports: SitePorts, settings: Settings) -> None:
        self.name, self._ports, self._settings = name, ports, settings
        self._secondaries: dict[str, Secondary] = {}
        self.secondaries: Final[Mapping[str, Secondary]] = MappingProxyType(self._secondaries)
        self._reporter = ProgressReporter(
            name, ports.publisher, settings.topics.progress, ports.clock, settings.site_report_s
        )
        self._failures = FailureLog(name, ports.clock)
        # Volumes that may need a step or a report, and volumes whose reads are over.
        self._active: set[str] = set()
        self._awaiting_read_end: set[str] = set()

    def run_once(self, timeout_s: float) -> None:
        """Read what has arrived, then take a step with each volume that needs one.

        1. LogReader.poll reads the log, and Catalog.poll the descriptions.
        2. _ask_read_ends asks for the end of the commands topic where the reads of a cycle are
           over.
        3. _advance: next_step (cycle.py) decides for each volume, and _run_cycles copies.
        4. ProgressReporter.report publishes what is due.

        Steps 3 and 4 are left out until the reader has caught up with the log.
        Wait up to `timeout_s` for the log. Raise KafkaFailed, OutOfRetention, BadInput (an event of
        the log or a description is damaged) or DeviceFailed (of the state store): the site can't go
        on then. A device of one volume stops that volume only.
        """
        touched = self._ports.log.poll(timeout_s, self._is_needed)
        self._ports.catalog.poll(0)
        if any(self._has_newer_description(name) for name in touched):
            self._ports.catalog.refresh()
        for name in touched & self._secondaries.keys():
            self._forget_rolled_up(self._secondaries[name])
        touched |= self._follow_catalog() | self._ask_read_ends()
        self._active |= touched
        if not self._ports.log.caught_up():
            return
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

    def progress(self, secondary: Secondary) -> SiteProgress:
        """Return the progress of a secondary as of now."""
        return self._reporter.progress_of(secondary, self._cycle_input(secondary))

    def summary(self) -> SiteSummary:
        """Return the summary of all secondaries."""
        return summarize_site(self.name, self._secondaries.values())

    # The catalog

    def _has_newer_description(self, name: str) -> bool:
        """Return whether the log is by a newer description of the volume than the site has."""
        known, head = self._ports.catalog.get(name), self._ports.log.logs[name].head
        return known is None or (
            head is not None and head.described_position > known.described_position
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
                self._open_described(secondary, is_damaged=False)
        return changed

    def _add(self, volume: Volume) -> None:
        secondary = self._secondaries[volume.volume] = Secondary(volume)
        self._awaiting_read_end.add(volume.volume)
        try:
            is_damaged = not self._load(secondary)
        except DeviceFailed as error:
            self._stop(secondary, error)
        else:
            self._open_described(secondary, is_damaged=is_damaged)

    def _open_described(self, secondary: Secondary, *, is_damaged: bool) -> None:
        """Open the secondary once by its description: it is created, or grows, if needed."""
        volume = secondary.volume
        if volume.is_retired:
            return
        try:
            if secondary.saved is None:
                self._ports.make_secondary(volume)
            with self._ports.open_secondary(volume) as device:
                secondary.note_zeroed(not is_damaged and next(device.allocated(), None) is None)
        except DeviceFailed as error:
            self._stop(secondary, error)

    def _load(self, secondary: Secondary) -> bool:
        """Load the saved state; return False if it is damaged.

        A damaged state is never guessed: the secondary counts as unknown, and all of it is copied.
        """
        try:
            secondary.note_saved(self._ports.states.load(secondary.volume.volume))
        except StateDamaged as error:
            log.error("%s", error)
            secondary.note_damaged(str(error))
            return False
        self._forget_applied(secondary)
        return True

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
        for secondary in waiting:
            secondary.note_read_end(ends[secondary.volume.partition])
        asked, self._awaiting_read_end = self._awaiting_read_end, set()
        return asked

    def _advance(self, secondaries: Sequence[Secondary]) -> None:
        """Take the next steps of these secondaries, until each is idle or has run one cycle.

        States are saved for all of them together.
        """
        now_s = self._ports.clock.monotonic_s
        looking = [
            secondary
            for secondary in secondaries
            if secondary.begin_look(now_s(), self._watermark(secondary))
        ]
        cycles: list[tuple[Secondary, Resync]] = []
        while looking:
            to_save: list[tuple[Secondary, SecondaryState]] = []
            for secondary in looking:
                match next_step(secondary.saved, self._cycle_input(secondary)):
                    case Idle() as step:
                        secondary.go_idle(step)
                        if step.state is SiteState.STOPPED:
                            self._failures.stopped(secondary.volume.volume, step.reason or "")
                    case Resync() as step:
                        cycles.append((secondary, step))
                    case SkipInitialCopy(state) | MarkConsistent(state) | AdvancePosition(state):
                        to_save.append((secondary, state))
            self._save(to_save)
            looking = [secondary for secondary, _ in to_save]
        if cycles:
            self._run_cycles(cycles)

    def _run_cycles(self, cycles: Sequence[tuple[Secondary, Resync]]) -> None:
        """Run one cycle of each secondary. The order keeps every claim true (invariants 6 and 8):

        1. Save durably that a cycle runs: from here on the secondary is inconsistent, and every
           report says so. A cycle shorter than the interval of reports may have none.
        2. Read the blocks from the primary and write them to the secondary (restore_changed or
           restore_all).
        3. Flush the secondary: the blocks are durable.
        4. Save the new applied position durably. Reports from here on name it.
        5. Note that the last read is over. The next round asks for the end of the commands topic
           (_ask_read_ends), on which the proof of the cycle stands.

        A crash between any two steps repeats the cycle. If a device fails, its cycle ends there;
        the other cycles go on.
        """
        for secondary, step in cycles:
            secondary.begin_cycle(step.reason)
            if step.reason is not None:
                self._failures.took_rung(secondary.volume.volume, step.rung, step.reason)
        self._save([(secondary, step.running) for secondary, step in cycles])  # 1
        done = []
        for secondary, step in cycles:
            try:
                copied = self._copy(secondary, step)  # 2, 3
            except DeviceFailed as error:
                self._stop(secondary, error)
            else:
                secondary.end_cycle()
                done.append((secondary, replace(step.done, rung=copied.rung)))
        self._save(done)  # 4
        self._awaiting_read_end |= {secondary.volume.volume for secondary, _ in done}  # 5

    def _copy(self, secondary: Secondary, step: Resync) -> Copied:
        """Copy the blocks of one cycle. They are durable on the secondary when it returns."""

        def on_copied(blocks: int, size_bytes: int) -> None:
            secondary.note_copied(blocks, size_bytes)
            self._report(secondary)

        volume, run_bytes = secondary.volume, self._settings.site_copy_bytes
        self._report(secondary)
        with (
            self._ports.open_primary(volume) as primary,
            self._ports.open_secondary(volume) as device,
        ):
            secondary.begin_copy()
            if step.blocks is None:
                copied = restore_all(primary, device, volume, run_bytes, on_copied)
            else:
                copied = restore_changed(primary, device, volume, step.blocks, run_bytes, on_copied)
            device.flush()
        return copied

    def _save(self, states: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        """Save states durably, then drop the records that they make needless."""
        now_us = self._ports.clock.now_us()
        stamped = [(secondary, replace(state, updated_at_us=now_us)) for secondary, state in states]
        self._ports.states.save_all([state for _, state in stamped])
        for secondary, state in stamped:
            secondary.note_saved(state)
            self._forget_applied(secondary)

    def _stop(self, secondary: Secondary, error: DeviceFailed) -> None:
        self._failures.stopped(secondary.volume.volume, str(error))
        secondary.stop(str(error), retry_at_s=self._ports.clock.monotonic_s() + _RETRY_S)
        self._active.add(secondary.volume.volume)

    # Reports

    def _report(self, secondary: Secondary) -> bool:
        """Report the secondary if that is due. Return whether it was."""
        if not self._reporter.is_due(secondary):
            return False
        self._reporter.report(secondary, self._cycle_input(secondary))
        return True

    def _report_and_go_idle(self, secondary: Secondary) -> None:
        self._failures.note_state(secondary.volume.volume, secondary.state)
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
        volume, watermark = secondary.volume, self._watermark(secondary)
        return CycleInput(
            volume=volume,
            log=self._log(volume.volume),
            watermark=None if watermark is None else watermark.through,
            read_end=secondary.read_end,
            secondary_zeroed=secondary.is_zeroed,
            beats=self._ports.log.beats[volume.partition],
        )

    def _log(self, name: str) -> SiteLog:
        return SiteLog(*self._logs(name), self.name)

    def _logs(self, name: str) -> tuple[VolumeLog, VolumeLog]:
        """Return the volume's log, and the log of what this site has missed of the volume."""
        logs = self._ports.log.logs
        return logs[name], logs[missed_log(name, self.name)]
