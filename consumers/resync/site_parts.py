"""SiteParts: what a site knows of its secondaries, and how it saves their states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mirrorlog.consumers.resync.chosen_volumes import ChosenVolumes
from mirrorlog.consumers.resync.command_ends import CommandEnds, OwnCommandEnds
from mirrorlog.consumers.resync.cycle_steps import CycleInput
from mirrorlog.consumers.resync.failure_log import FailureLog
from mirrorlog.consumers.resync.history_watch import HistoryWatch
from mirrorlog.consumers.resync.log_watch import LogWatch
from mirrorlog.consumers.resync.meetings import SecondaryMeetings
from mirrorlog.consumers.resync.paused_secondaries import PausedSecondaries
from mirrorlog.consumers.resync.read_ends import ReadEnds
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.reporting import ProgressReporter
from mirrorlog.consumers.resync.secondary import Secondary, save_states
from mirrorlog.consumers.resync.seeds import Seeds
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.resync.state_changes import StateChanges
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.settings import Settings


class SiteParts:
    """The parts that know something of a site's secondaries. One thread calls it.

    secondaries: by volume. active: the volumes that may need a step or a report.
    """

    def __init__(self, name: str, ports: SitePorts, settings: Settings) -> None:
        self.name: Final = name
        self.ports: Final = ports
        self.secondaries: Final[dict[str, Secondary]] = {}
        self.active: Final[set[str]] = set()
        self.reporter: Final = ProgressReporter(
            name, ports.publisher, settings.topics.progress, ports.clock, settings.site_report_s
        )
        self.failures: Final = FailureLog(name, ports.clock)
        self.changes: Final = StateChanges(ports.clock, ports.on_change)
        self.chosen: Final = ChosenVolumes(name, settings.site_volumes, settings.site_secondaries)
        self.ends: Final[CommandEnds] = ports.ends or OwnCommandEnds(
            ports.open_reader,
            ports.admin,
            settings.topics.commands,
            ports.clock,
            settings.patience_s,
            ports.ask_end,
        )
        self.logs: Final = ReplicaLogs(
            name, ports.log, self.secondaries, self.chosen.others, self.ends
        )
        self.seeds: Final = Seeds(settings.site_seeds, settings.site_checksum)
        self.meetings: Final = SecondaryMeetings(
            name, ports.secondaries, self.save, ports.draw_id, self.seeds
        )
        self.snapshots: Final = SnapshotReads(
            ports.secondaries, ports.clock, settings.site_snapshot_s
        )
        self.paused: Final = PausedSecondaries(name, ports.pauses, ports.held_for_drills)
        histories = HistoryWatch(self.ends.commands_now)
        self.watch: Final = LogWatch(self.secondaries, ports.log, histories, ports.clock, self.ends)
        self.read_ends: Final = ReadEnds(self.ends)

    def save(self, states: Sequence[tuple[Secondary, SecondaryState]]) -> None:
        """Save states durably, with the identities of their secondaries.

        Then drop the records that they make needless.
        """
        save_states(self.ports.states, self.ports.clock.now_us(), states)
        for secondary, _ in states:
            self.snapshots.note_saved(secondary)
            self.logs.forget_applied(secondary)

    def cycle_input(self, secondary: Secondary) -> CycleInput:
        """Return what is known of a secondary beside its saved state."""
        return self.logs.cycle_input(secondary, self.watch.lagging)

    def has_newer_description(self, name: str) -> bool:
        """Return whether the log is by a newer description of the volume than the site has."""
        known, head = self.ports.catalog.get(name), self.ports.log.logs[name].head
        return known is None or (
            head is not None and (head.epoch, head.described_position) > known.description_order
        )

    def check_histories(self, touched: set[str]) -> set[str]:
        """Call LogWatch.check. The volumes that it returns need a step or a report."""
        changed = self.watch.check(touched)
        self.active.update(changed)
        return changed
