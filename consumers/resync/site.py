"""A site: it reads the tracking log and keeps its secondaries up to date by it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mirrorlog.consumers.resync.copy_pace import CopyPausedError
from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.known_group import GroupFigures
from mirrorlog.consumers.resync.reporting import ReportedReplica, SiteSummary, summarize_site
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.secondary_reports import SecondaryReports
from mirrorlog.consumers.resync.secondary_steps import SecondarySteps
from mirrorlog.consumers.resync.secondary_turns import SecondaryTurns
from mirrorlog.consumers.resync.share_follower import ShareFollower
from mirrorlog.consumers.resync.site_cycles import SiteCycles
from mirrorlog.consumers.resync.site_parts import SiteParts
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.resync.site_volumes import SiteVolumes
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.settings import Settings

_CHECK_S: Final = 30.0
"""How often the site looks whether its idle secondaries are still there, and the same."""
_SAVED_TOGETHER: Final = 64
"""How many secondaries have their states saved together. More means fewer waits for the disk, and
later reports."""


class Site:
    """Mirrors the volumes of the catalog that are chosen (chosen_volumes.py). One thread calls it.

    secondaries: by volume, to read.
    worked_at_us: when it last did a round or copied a run of blocks, microseconds since 1970.
    """

    def __init__(self, name: str, ports: SitePorts, settings: Settings) -> None:
        self.name, self._ports = name, ports
        self._parts = parts = SiteParts(name, ports, settings)
        self._secondaries, self._active = parts.secondaries, parts.active
        self.secondaries: Final[Mapping[str, Secondary]] = MappingProxyType(self._secondaries)
        self.worked_at_us = ports.clock.now_us()
        self._checked_at_s = ports.clock.monotonic_s()
        self._logs, self._watch, self._ends = parts.logs, parts.watch, parts.ends
        self._snapshots, self._paused = parts.snapshots, parts.paused
        self._reporter, self._reports = parts.reporter, SecondaryReports(parts)
        self._turns = SecondaryTurns(parts)
        cycles = SiteCycles(
            parts,
            self._turns,
            settings,
            on_copy_step=self._on_copy_step,
            on_apply=self._on_apply,
        )
        self._groups = cycles.groups
        self._volumes = SiteVolumes(parts, self._turns, cycles)
        self._steps = SecondarySteps(parts, self._turns, self._volumes, cycles)
        self._share = ShareFollower(
            ports.share,
            ports.log,
            parts.watch,
            ports.publisher,
            leave_volumes=self._volumes.leave_partition,
            look_for_journals=cycles.staged.look_for_left,
            patience_s=settings.patience_s,
        )

    def run_once(self, timeout_s: float) -> None:
        """Read what has arrived, then take a step with each volume that needs one.

        0. ShareFollower.follow gives partitions back, and takes others.
        1. LogReader.poll reads the log, and Catalog.poll the descriptions.
        2. _take_read_ends asks for the end of the commands topic where the reads of a cycle are
           over.
        3. SiteParts.check_histories holds new secondaries' positions, and now and then the log,
           against the commands topic.
        4. SecondarySteps.advance: next_step (cycle.py) decides for each volume, and InPlaceCycles
           or StagedCycles copies. Then GroupCycles.run takes the next step of each consistency
           group.
        5. ProgressReporter.report publishes what is due.

        Steps 3 to 5 are left out until the reader has caught up with the log.
        Wait up to `timeout_s` for the log. Raise KafkaFailed, OutOfRetention, BadInput (an event of
        the log or a description is damaged), BadUse (another process runs the site) or DeviceFailed
        (of the state store): the site can't go on then. A device of one volume stops that volume
        only.
        """
        self._keep_name()
        self._share.follow()
        touched = self._ports.log.poll(
            0.0 if self._turns.has_copy_to_go_on else timeout_s, self._logs.is_needed
        )
        self._turns.has_copy_to_go_on = False
        self._ports.catalog.poll(0)
        if any(self._parts.has_newer_description(name) for name in touched):
            self._ports.catalog.refresh()
        for name in touched & self._secondaries.keys():
            self._logs.forget_rolled_up(self._secondaries[name])
        touched |= self._volumes.follow_catalog() | self._take_read_ends() | self._due_for_a_check()
        touched |= self._paused.follow(self._secondaries) | self._snapshots.drop_late()
        self._active |= touched
        if not self._ports.log.caught_up():
            self._reports.report_waiting()
            return
        self._active |= self._watch.follow_lag()
        touched |= self._parts.check_histories(touched)
        active = [
            self._secondaries[name] for name in sorted(self._active & self._secondaries.keys())
        ]
        due = [
            secondary
            for secondary in active
            if secondary.volume.volume in touched
            or secondary.is_due(self._logs.watermark(secondary))
        ]
        for start in range(0, len(due), _SAVED_TOGETHER):
            self._steps.advance(due[start : start + _SAVED_TOGETHER])
        moved = self._groups.run()
        known = {secondary.volume.volume for secondary in active}
        active += [self._secondaries[name] for name in sorted(moved - known)]
        for secondary in active:
            self._reports.report_and_go_idle(secondary)
        self._look_again(moved)
        self._reporter.poll()
        if (age_s := self._ends.age_s()) is not None:
            self._ports.note_caught_up(age_s)

    def progress(self, secondary: Secondary) -> SiteProgress:
        """Return the progress of a secondary as of now."""
        return self._reporter.progress_of(secondary, self._parts.cycle_input(secondary))

    def summary(self) -> SiteSummary:
        """Return the summary of all secondaries."""
        return summarize_site(self.name, self._secondaries.values())

    def reported(self) -> list[ReportedReplica]:
        """Return all secondaries as they were reported last. Any thread may call it."""
        return self._reporter.reported()

    def group_figures(self) -> list[GroupFigures]:
        """Return what is exported of each consistency group. Any thread may call it."""
        return self._groups.figures()

    def log_complete_us(self, partition: int) -> int | None:
        """Return when the log was last known to hold all commands (LogWatch.complete_us)."""
        return self._watch.complete_us(partition)

    def now_us(self) -> int:
        """Return the time by the site's clock, in microseconds since 1970."""
        return self._ports.clock.now_us()

    def _look_again(self, moved: set[str]) -> None:
        """Let the next round look for steps of these: their group began or ended a cycle.

        The log may not grow any more: their hosts may have ended.
        """
        for name in moved:
            self._secondaries[name].look_again()
        self._active |= moved

    def _keep_name(self) -> None:
        self._ports.keep_name()
        self.worked_at_us = self._ports.clock.now_us()

    def _due_for_a_check(self) -> set[str]:
        """Return all volumes if it is time to look whether idle secondaries are still there."""
        now_s = self._ports.clock.monotonic_s()
        if now_s - self._checked_at_s < _CHECK_S:
            return set()
        self._checked_at_s = now_s
        self._watch.check_all()
        for secondary in self._secondaries.values():
            secondary.note_check_due()
        return set(self._secondaries)

    def _take_read_ends(self) -> set[str]:
        """Ask where the commands end, where reads are over. Return the volumes that know it now."""
        ends = self._parts.read_ends.take(self._secondaries)
        for name, end in ends.items():
            self._secondaries[name].note_read_end(end.end)
        self._watch.note_ends(
            {self._secondaries[name].volume.partition: end for name, end in ends.items()}
        )
        return set(ends)

    def _on_apply(self, secondary: Secondary) -> None:
        """Report a secondary to which a journal is applied: it is inconsistent meanwhile."""
        if secondary.state is not SiteState.SYNCING and secondary.saved is not None:
            step = Resync(Rung.CHANGED, secondary.saved, secondary.saved, BlockSet(), None)
            secondary.begin_cycle(None)
            self._parts.changes.begin_cycle(secondary, step)
        self._keep_name()
        self._reports.report(secondary)

    def _on_copy_step(self, secondary: Secondary) -> None:
        """Do what is due while a cycle copies. Raise BadUse; CopyPausedError to end its turn."""
        self._keep_name()
        self._reports.report(secondary)
        self._paused.check(secondary, self._secondaries)
        if self._share.has_surplus():
            raise CopyPausedError
