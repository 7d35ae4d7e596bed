"""Logs when the clients of a process can't reach Kafka, and when Kafka answers again."""

from __future__ import annotations

import logging
import re
from threading import Lock
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.ports.clock import Clock

log = logging.getLogger("mirrorlog.kafka")

_GRACE_S: Final = 5.0
"""A cluster that elects a leader or restarts a broker may be away for so long unsaid."""
_NAMES: Final = re.compile(r"^(?:\S+: )+")
"""librdkafka's names of a connection: `GroupCoordinator: 127.0.0.1:9092: Connect to …`."""
_COUNTS: Final = re.compile(r"\s*\(after .*\)$")


class OutageLog:
    """The outages of clusters, by their servers, for all clients of a process and any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._reports = RetryReports()
        self._away_since_s: dict[str, float] = {}

    def failed(self, servers: str, text: str) -> None:
        """Note that a connection failed. text: as librdkafka describes it."""
        reason, now_s = _COUNTS.sub("", _NAMES.sub("", text)), self._clock.monotonic_s()
        with self._lock:
            since_s = self._away_since_s.setdefault(servers, now_s)
            if now_s - since_s < _GRACE_S:
                return
            line = self._reports.failed(servers, reason, now_s=now_s)
        if line:
            log.warning("Kafka at %s can't be reached, trying again: %s", servers, line)

    def answered(self, servers: str) -> None:
        """Note that the cluster has answered."""
        with self._lock:
            self._away_since_s.pop(servers, None)
            line = self._reports.worked(servers, now_s=self._clock.monotonic_s())
        if line:
            log.warning("Kafka at %s %s", servers, line)
