"""What the parts of one session share: its activity log, its outbox, its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock

from mirrorlog.producers.durable.activity_log import ActivityLog
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class SessionParts:
    """One session's activity log and outbox.

    session: its id.
    report: called with each line that people should read.
    """

    session: str
    log: ActivityLog
    outbox: Outbox
    settings: Settings
    report: Callable[[str], None]

    @property
    def lock(self) -> RLock:
        """The lock of the session: it covers the activity log, the outbox and the tracker."""
        return self.outbox.lock

    def is_unsettled(self, name: str) -> bool:
        """Return whether an earlier session is open, or may have left writes unpublished.

        The activity log must name the volume, and this session must be open on it.
        """
        activity = self.log.state.volumes[name]
        return (
            activity.may_be_unpublished
            or not activity.covered
            or activity.sessions != {self.session}
        )
