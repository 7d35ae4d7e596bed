"""The last reports of sites and backups on each volume, from the topic `mirrorlog.progress`.

A site that is registered there still needs the log above its position.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from mirrorlog.codec.events import decode
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.errors import BadInput
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.topics import Topics

log = logging.getLogger("mirrorlog.reading")


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
        self._topic = CompactedTopic(reader, admin, topics.progress, patience)
        self._volumes: dict[bytes, str] = {}
        self._reports: dict[str, dict[bytes, SiteProgress]] = defaultdict(dict)

    def refresh(self) -> None:
        """Read every report published before the call. Raise KafkaFailed as read_through."""
        for message in self._topic.read_to_end():
            self._take_message(message)

    def poll(self, timeout_s: float = 0) -> None:
        """Take the reports that have arrived; wait up to `timeout_s` for one."""
        for message in self._topic.poll(timeout_s):
            self._take_message(message)

    def _take_message(self, message: Message) -> None:
        if message.key is not None:
            self._take(message.key, message.value)

    def _take(self, key: bytes, value: bytes | None) -> None:
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
        report = event if isinstance(event, SiteProgress) else None
        if (known := self._volumes.pop(key, None)) is not None:
            del self._reports[known][key]
        if report is not None:
            self._volumes[key] = report.volume
            self._reports[report.volume][key] = report

    def of(self, volume: str) -> Sequence[SiteProgress]:
        """Return the last report of each site that has the volume."""
        return list(self._reports[volume].values()) if volume in self._reports else []
