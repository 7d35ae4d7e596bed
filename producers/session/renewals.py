"""Renewals: open volumes follow their descriptions, to new generations, histories and hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.producers.session.description_watch import DescriptionWatch
from mirrorlog.producers.session.session_search import SessionSearch
from mirrorlog.producers.writes.write_tracker import WriteTracker

_FOLLOWING: Final = "reading the descriptions of the open volumes"


class Renewals:
    """Lets a session take over what its open volumes' descriptions say now.

    search: None for a session that doesn't read the log.
    report: called with each line that people should read.
    """

    def __init__(
        self,
        watch: DescriptionWatch,
        tracker: WriteTracker,
        outbox: Outbox,
        search: SessionSearch | None,
        session: str,
        report: Callable[[str], None],
    ) -> None:
        self._watch, self._tracker, self._outbox = watch, tracker, outbox
        self._search, self._session, self._report = search, session, report
        self._failures = RetryReports()

    def follow(self, now_s: float) -> None:
        """Take over the generations and histories of open volumes that were renewed.

        Let no write to a volume begin that was taken over from this session (`volume move`), or of
        which another copy is the primary now (`promote`). What the session wrote by then is still
        published, by the generation that ended.

        A failure is reported, and costs no more than that the session continues with what it knows:
        a description of another volume may be wrong, and the topic may have been made anew.
        """
        if not self._watch.is_due(now_s):
            return
        with self._tracker.lock:
            volumes = {name: opened.volume for name, opened in self._tracker.volumes.items()}
        try:
            renewed = self._watch.renewed(volumes, now_s)
        except MirrorlogError as error:
            if text := self._failures.failed(_FOLLOWING, str(error), now_s=now_s):
                self._report(f"{_FOLLOWING} failed: {text}")
            return
        if text := self._failures.worked(_FOLLOWING, now_s=now_s):
            self._report(f"{_FOLLOWING} {text}")
        for volume in renewed:
            before = volumes[volume.volume]
            if volume.generation != before.generation:
                self._report(
                    f"volume {volume.volume}: its generation was renewed from {before.generation} "
                    f"to {volume.generation}; its sites copy all of it"
                )
            with self._tracker.lock:
                if volume.volume not in self._tracker.volumes:
                    continue
                self._tracker.renew(volume)
                self._enter_history(before, volume)
        for name, reason in self._watch.ended(volumes, self._session).items():
            with self._tracker.lock:
                self._outbox.reject(name, reason)

    def _enter_history(self, before: Volume, volume: Volume) -> None:
        """Let positions count in the history that the node gave the volume's partition."""
        partition, history_id = volume.partition, volume.history_id
        if history_id is None or history_id == before.history_id:
            return
        if volume.generation != before.generation:
            self._outbox.enter_history(partition, history_id)
        elif self._search is not None:
            self._search.enter(partition, history_id)
        else:
            self._outbox.positions.name_history(partition, history_id)
