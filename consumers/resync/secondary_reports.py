"""SecondaryReports: when the states of a site's secondaries are told, and to whom."""

from __future__ import annotations

from typing import Final

from mirrorlog.consumers.resync.cycle_steps import Idle
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.site_parts import SiteParts
from mirrorlog.domain.site_progress import SiteState


class SecondaryReports:
    """Publishes the progress of secondaries, and tells and logs the changes of their states."""

    def __init__(self, parts: SiteParts) -> None:
        self._secondaries, self._active = parts.secondaries, parts.active
        self._reporter, self._changes = parts.reporter, parts.changes
        self._failures: Final = parts.failures
        self._ends, self._cycle_input = parts.ends, parts.cycle_input

    def report_waiting(self) -> None:
        """Report what the site waits for, if no answer of a mirror's source comes."""
        for secondary in self._secondaries.values():
            reason = self._ends.stall_reason(secondary.volume.partition)
            if reason is not None and secondary.state is SiteState.WAITING:
                secondary.go_idle(Idle(SiteState.WAITING, reason))
                self.report(secondary)
                self._changes.look(secondary)

    def report(self, secondary: Secondary) -> bool:
        """Report the secondary if that is due. Return whether it was."""
        if not self._reporter.is_due(secondary):
            return False
        self._reporter.report(secondary, self._cycle_input(secondary))
        return True

    def report_and_go_idle(self, secondary: Secondary) -> None:
        """Tell what a step has changed. Nothing more is due if the state is final."""
        self._failures.note_state(secondary.volume.volume, secondary.state)
        self._changes.look(secondary)
        if secondary.state is SiteState.CONSISTENT:
            secondary.forget_reason()
        if self.report(secondary) and secondary.is_final:
            self._active.discard(secondary.volume.volume)
