"""SiteCycles: puts together what runs the cycles of a site, in place, staged and of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorlog.consumers.resync.copy_pace import CopyPace
from mirrorlog.consumers.resync.copy_rate import parse_rates
from mirrorlog.consumers.resync.cycle_calls import CycleCalls
from mirrorlog.consumers.resync.cycle_copier import CycleCopier
from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.group_cycles import GroupCycles, GroupPorts
from mirrorlog.consumers.resync.group_journals import GroupJournals
from mirrorlog.consumers.resync.in_place_cycles import InPlaceCycles
from mirrorlog.consumers.resync.journaled_cycles import CycleJournals
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.secondary_turns import SecondaryTurns
from mirrorlog.consumers.resync.site_parts import SiteParts
from mirrorlog.consumers.resync.staged_cycles import StagedCycles
from mirrorlog.consumers.resync.traced_cycles import CycleTraces
from mirrorlog.settings import Settings


class SiteCycles:
    """What runs the cycles of a site.

    copier: copies the blocks of a cycle. in_place, staged, groups: run cycles. copies_in_place: no
    cycle goes through a journal.
    """

    def __init__(
        self,
        parts: SiteParts,
        turns: SecondaryTurns,
        settings: Settings,
        *,
        on_copy_step: Callable[[Secondary], None],
        on_apply: Callable[[Secondary], None],
    ) -> None:
        """Put them together.

        on_copy_step: called while a cycle copies. on_apply: called while a journal is applied.
        """
        self._parts, self._turns, self._settings = parts, turns, settings
        self.copies_in_place: Final = settings.site_consistency != "crash"
        ports = parts.ports
        self.copier: Final = CycleCopier(
            settings,
            ports,
            CopyPace(
                parse_rates(settings.site_max_rate),
                ports.clock,
                ports.sleep,
                worker_count=ports.worker_count,
            ),
            meetings=parts.meetings,
            logs=parts.logs,
            seeds=parts.seeds,
            save=lambda secondary, state: parts.save([(secondary, state)]),
            on_step=on_copy_step,
        )
        run_by = (self.copier, parts.meetings, parts.logs)
        calls = self._cycle_calls()
        journals = self._cycle_journals(on_apply)
        self.staged: Final = StagedCycles(journals, *run_by, self._traces(), calls, parts.snapshots)
        self.in_place: Final = InPlaceCycles(
            *run_by, self._traces(), calls, parts.snapshots, ports.flushes
        )
        self.groups: Final = self._group_cycles(journals, calls)

    def _note_begun(self, secondary: Secondary, step: Resync) -> None:
        """Tell people that a cycle in place has begun."""
        self._parts.changes.begin_cycle(secondary, step)
        if step.reason is not None:
            self._parts.failures.took_rung(secondary.volume.volume, step.rung, step.reason)

    def _cycle_calls(self) -> CycleCalls:
        """Return what those call who run the cycles."""
        return CycleCalls(
            stop=self._turns.stop,
            pause=self._turns.pause,
            reading=lambda secondary: self._parts.read_ends.note_reading(secondary.volume.volume),
            read=lambda secondary: self._parts.read_ends.note_over(secondary.volume.volume),
            cycle_input=self._parts.snapshots.with_snapshot(self._parts.cycle_input),
            began=self._note_begun,
            go_on_later=self._turns.go_on_later,
            save=self._parts.save,
        )

    def _traces(self) -> CycleTraces:
        return CycleTraces(
            self._parts.ports.tracer,
            self._settings.topics.commands,
            self._parts.name,
            self._parts.ports.clock,
        )

    def _cycle_journals(self, on_apply: Callable[[Secondary], None]) -> CycleJournals:
        """Return the journals of the cycles: those of earlier processes at least."""
        settings, ports = self._settings, self._parts.ports
        return CycleJournals(
            self._parts.name,
            ports.journals,
            self._parts.meetings,
            max_bytes=settings.site_journal_bytes if settings.site_consistency == "crash" else 0,
            save=self._parts.save,
            draw_id=ports.draw_id,
            tasks_for=ports.tasks_for,
            on_apply=on_apply,
        )

    def _group_cycles(self, journals: CycleJournals, calls: CycleCalls) -> GroupCycles:
        """Return the cycles of consistency groups."""
        ports = GroupPorts(
            site=self._parts.name,
            secondaries=self._parts.secondaries,
            devices=self._parts.ports.secondaries,
            clock=self._parts.ports.clock,
            is_paused=self._parts.paused.covers,
            draw_id=self._parts.ports.draw_id,
            interval_s=self._settings.site_snapshot_s,
        )
        group_journals = GroupJournals(
            journals, self.copier, self._parts.logs, calls, self._parts.snapshots
        )
        return GroupCycles(ports, group_journals, self._parts.meetings, self._parts.logs, calls)
