"""BrokenHistories: what a session does when commands are gone that Kafka had acknowledged.

docs/decisions/histories.md says how a history breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from mirrorlog.domain.volumes import Volume
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.activity_log import ActivityLog
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.producers.session.session_search import SessionSearch
from mirrorlog.producers.writes.write_tracker import WriteTracker

NOTE: Final = "the commands that named its writes may be gone: the history broke"


class BrokenHistories:
    """Lets the volumes of a partition whose history broke count as dirty as a whole.

    volumes: every volume that the session knows, by name; the session adds to it.
    search: None for a session that doesn't read the log.
    report: called with each line that people should read.
    """

    def __init__(
        self,
        volumes: Mapping[str, Volume],
        log: ActivityLog,
        outbox: Outbox,
        tracker: WriteTracker,
        search: SessionSearch | None,
        report: Callable[[str], None],
    ) -> None:
        self._volumes, self._log, self._outbox = volumes, log, outbox
        self._tracker, self._search, self._report = tracker, search, report

    def find_lost(self, partitions: Collection[int]) -> Collection[int]:
        """Let the volumes of a partition count as dirty as a whole if the topic lost its end.

        Return these partitions. Those in which the session has published something are passed over:
        there it notices by itself when positions go back.
        """
        if self._search is None:
            return ()
        unknown = {number for number in partitions if self._outbox.positions.last(number) is None}
        lost = self._search.lost_positions(self._volumes, unknown)
        with self._tracker.lock:
            for partition, (position, end) in lost.items():
                self._outbox.positions.claim(partition, position, end)
        self.handle()
        return lost

    def handle(self) -> bool:
        """Let every volume in a partition whose history broke count as dirty as a whole, durably.

        What Kafka had acknowledged may be gone, and its regions have left the activity log. An open
        volume is published as dirty when Kafka takes commands; any other one when it is opened, or
        at the next start. Return whether a history broke (AcknowledgedPositions.broken).
        Raise DeviceFailed if the activity log can't be written.
        """
        if not self._outbox.positions.broken:
            return False
        with self._tracker.lock:
            broken = dict(self._outbox.positions.broken)
            names = [
                name
                for name in self._log.state.volumes
                if name in self._volumes and self._volumes[name].partition in broken
            ]
            self._log.append(
                ActivityEntry(ActivityOp.WHOLE_VOLUME, name)
                for name in names
                if name not in self._tracker.volumes
            )
            self._tracker.fall_back_to_whole_volume(names, NOTE)
            self._outbox.accept_history(broken)
            for partition, (acknowledged, lower) in broken.items():
                self._report(
                    f"the history of partition {partition} broke: Kafka acknowledged a command at "
                    f"position {acknowledged}, and position {lower} is that of a later one. The "
                    "topic was made anew, or the broker went back in time"
                )
        return True
