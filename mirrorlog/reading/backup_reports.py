"""The last reports of backups, from the topics of progress. The reports of sites aren't decoded."""

from __future__ import annotations

import logging
from typing import TypeAlias

from mirrorlog.codec.events import decode
from mirrorlog.domain.backup_reports import BACKUP_KEYS, BackupReport
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.present_state import Reported
from mirrorlog.reading.progress_topics import ProgressTopics
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.topics import Topics

log = logging.getLogger("mirrorlog.reading")

_RepositoryAndVolume: TypeAlias = tuple[str, str]


class BackupReports:
    """The last report of each repository on each volume. refresh() brings them up to date.

    patience_s: how long refresh() waits for a broker that doesn't answer.
    """

    def __init__(
        self,
        reader: TopicReader,
        admin: TopicAdmin,
        topics: Topics,
        clock: Clock,
        patience_s: float = 30.0,
    ) -> None:
        patience = ReadPatience(clock, patience_s, "reading the reports of backups")
        self._topics = ProgressTopics(reader, admin, topics, patience)
        self._reports: dict[tuple[str, bytes], Reported[BackupReport]] = {}

    def refresh(self) -> None:
        """Read every report published before the call. Raise KafkaFailed as read_through."""
        for message in self._topics.read_to_end():
            if message.key is not None and message.key.startswith(BACKUP_KEYS):
                self._take(message, message.key)

    def latest(self) -> tuple[Reported[BackupReport], ...]:
        """Return the reports, one for each repository and volume."""
        latest: dict[_RepositoryAndVolume, Reported[BackupReport]] = {}
        for reported in self._reports.values():
            latest[reported.report.repository, reported.report.volume] = reported
        return tuple(latest.values())

    def close(self) -> None:
        """Close the reader."""
        self._topics.close()

    def _take(self, message: Message, key: bytes) -> None:
        address = (message.topic, key)
        if message.value is None:
            self._reports.pop(address, None)
            return
        try:
            report = decode(message.value, BackupReport)
        except BadInput as error:
            text = key[:80].decode("utf-8", "replace")
            log.error("a backup's report can't be read, its last one still counts: %s (key %s)",
                error, text)  # fmt: skip
            return
        at_us = message.at_us if message.by_broker else None
        self._reports[address] = Reported(report, at_us)
