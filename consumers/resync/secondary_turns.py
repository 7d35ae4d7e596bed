"""SecondaryTurns: how a secondary's turn in a round ends early, and when it gets the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mirrorlog.consumers.resync.mark_writer import Failed
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.site_parts import SiteParts
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import CopyDiverged, DeviceFailed

_RETRY_S: Final = 5.0
"""The time for which a secondary waits after a failure of its device."""


class SecondaryTurns:
    """Stops and pauses secondaries, and lets them go on later.

    has_copy_to_go_on: a copy of everything goes on in the next round, which waits for nothing.
    """

    def __init__(self, parts: SiteParts) -> None:
        self.has_copy_to_go_on = False
        self._ports, self._active = parts.ports, parts.active
        self._failures, self._snapshots = parts.failures, parts.snapshots
        self._meetings, self._paused = parts.meetings, parts.paused

    def stop(self, secondary: Secondary, error: DeviceFailed) -> None:
        """Stop a secondary whose device failed. It is tried again after a while."""
        self._failures.stopped(secondary.volume.volume, str(error))
        self._snapshots.drop(secondary.volume.volume)
        secondary.stop(
            str(error),
            retry_at_s=self._ports.clock.monotonic_s() + _RETRY_S,
            advice=error.next or None,
            state=SiteState.DIVERGED if isinstance(error, CopyDiverged) else SiteState.STOPPED,
        )
        self._active.add(secondary.volume.volume)

    def stop_all(self, failed: Sequence[Failed]) -> None:
        """Stop the secondaries that failed."""
        for secondary, error in failed:
            self.stop(secondary, error)

    def pause(self, secondary: Secondary) -> None:
        """Keep off a secondary that is paused or held. Another process may lock it now.

        If it is neither, its copy ended only because partitions are to be given back.
        """
        if not self._paused.covers(secondary):
            self.go_on_later(secondary)
            return
        self._meetings.let_go(secondary)
        secondary.pause(self._paused.step(secondary))

    def go_on_later(self, secondary: Secondary) -> None:
        """Let the copy of everything go on in the next round, after the other volumes."""
        secondary.look_again()
        self._active.add(secondary.volume.volume)
        self.has_copy_to_go_on = True

    def read_log_again(self, secondary: Secondary) -> None:
        """Read again what was dropped of the log and is needed now. No step is taken before."""
        self._ports.log.read_again(secondary.volume.partition)
        secondary.look_again()
        self._active.add(secondary.volume.volume)
