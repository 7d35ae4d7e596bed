"""What a site logs of its secondaries, each of which is tried again every few seconds."""

from __future__ import annotations

import logging
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.ports.clock import Clock

log = logging.getLogger("mirrorlog.site")

_WORKING: Final = (SiteState.SETTLING, SiteState.CONSISTENT, SiteState.RETIRED, SiteState.DETACHED)


class FailureLog:
    """Logs which secondaries of a site are stopped, or take a rung above CHANGED.

    A secondary that fails again at each retry is logged at growing intervals, and once when it
    works again (RetryReports).
    """

    def __init__(self, site: str, clock: Clock) -> None:
        self._site, self._clock = site, clock
        self._stops, self._rungs = RetryReports(), RetryReports()
        self._stopped: set[str] = set()

    def stopped(self, volume: str, reason: str) -> None:
        """Note that a secondary is stopped."""
        self._stopped.add(volume)
        if text := self._stops.failed(volume, reason, now_s=self._clock.monotonic_s()):
            log.error("%s at %s is stopped: %s", volume, self._site, text)

    def took_rung(self, volume: str, rung: str, reason: str) -> None:
        """Note that a secondary begins a resync by a rung above CHANGED."""
        if text := self._rungs.failed(volume, reason, now_s=self._clock.monotonic_s()):
            log.warning("%s at %s: %s; taking the rung '%s'", volume, self._site, text, rung)

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self._stopped.discard(volume)
        self._stops.forget(volume)
        self._rungs.forget(volume)

    def note_state(self, volume: str, state: SiteState) -> None:
        """Note the state of a secondary after its step."""
        if volume in self._stopped and state in _WORKING:
            self._stopped.remove(volume)
            if text := self._stops.worked(volume, now_s=self._clock.monotonic_s()):
                log.warning("%s at %s %s", volume, self._site, text)
        if state is SiteState.CONSISTENT:
            self._rungs.forget(volume)  # the next gap is logged at once
