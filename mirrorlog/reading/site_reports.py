"""The last reports of sites and backups on each volume, from the topic `mirrorlog.progress`.

A site or a backup that is registered there still needs the log above its position. Sites with
clusters of their own report there, too, or in topics that mirrors bring (Topics.all_progress).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from mirrorlog.codec.events import decode
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.progress_topics import ProgressTopics
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.topics import Topics

log = logging.getLogger("mirrorlog.reading")

_Address: TypeAlias = tuple[str, bytes]
"""The topic and the key of a message."""
LogUser: TypeAlias = SiteProgress | BackupReport
"""The last report of somebody who needs the log of a volume."""


class SiteReports:
    """Reports by volume. refresh() brings them up to date.

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
        patience = ReadPatience(clock, patience_s, "reading the sites' reports")
        self._topics = ProgressTopics(reader, admin, topics, patience)
        self._volumes: dict[_Address, str] = {}
        self._reports: dict[str, dict[_Address, LogUser]] = defaultdict(dict)

    def refresh(self) -> None:
        """Read every report published before the call. Raise KafkaFailed as read_through.

        A topic that a mirror is to make, and hasn't made yet, holds no report.
        """
        for message in self._topics.read_to_end():
            self._take_message(message)

    def poll(self, timeout_s: float = 0) -> None:
        """Take the reports that have arrived; wait up to `timeout_s` for one."""
        for message in self._topics.poll(timeout_s):
            self._take_message(message)

    def _take_message(self, message: Message) -> None:
        if message.key is not None:
            self._take((message.topic, message.key), message.value)

    def _take(self, address: _Address, value: bytes | None) -> None:
        key = address[1]
        try:
            event = None if value is None else decode(value, object)
        except BadInput as error:
            log.error(
                "a site's report can't be read, its last one still counts: %s (key %s)",
                error,
                key[:80].decode("utf-8", "replace"),
            )
            return
        if isinstance(event, SiteLease):
            return
        report = event if isinstance(event, LogUser) else None
        if (known := self._volumes.pop(address, None)) is not None:
            del self._reports[known][address]
        if report is not None:
            self._volumes[address] = report.volume
            self._reports[report.volume][address] = report

    def of(self, volume: str) -> Sequence[SiteProgress]:
        """Return the last report of each site that has the volume."""
        return [report for report in self.users_of(volume) if isinstance(report, SiteProgress)]

    def users_of(self, volume: str) -> Sequence[LogUser]:
        """Return the last report of each site that has the volume, and of each of its backups."""
        return list(self._reports[volume].values()) if volume in self._reports else []
