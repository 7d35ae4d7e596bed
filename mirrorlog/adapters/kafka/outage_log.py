"""Logs when the clients of a process wait for Kafka or can't reach it, and when it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from mirrorlog.adapters.kafka.first_answer import reason_of
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.ports.clock import Clock

log = logging.getLogger("mirrorlog.kafka")

_GRACE_S: Final = 5.0
"""A cluster that elects a leader or restarts a broker may be away for so long unsaid."""
_FIRST_LINE_S: Final = 1.0
"""A process that waits for its first answer says so after this time, and then less and less."""
_LONGEST_S: Final = 60.0


@dataclass(slots=True)
class _FirstWait:
    """A cluster that has never answered this process, and lines that say so."""

    began_s: float
    next_line_s: float
    lines: int = 0


class OutageLog:
    """The outages of clusters, by their servers, for all clients of a process and any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._reports = RetryReports()
        self._away_since_s: dict[str, float] = {}
        self._waits: dict[str, _FirstWait] = {}
        self._answered: set[str] = set()

    def has_answered(self, servers: str) -> bool:
        """Return whether the cluster has ever answered a request of this process."""
        with self._lock:
            return servers in self._answered

    def waits(self, servers: str, waited_s: float, describe: Callable[[], str]) -> None:
        """Note that a request has waited so long for a first answer.

        describe: returns what keeps the answer from coming, and why these servers are used. It is
            called if a line is due, and may take a moment.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            if servers in self._answered:
                return
            began_s = now_s - waited_s
            wait = self._waits.setdefault(servers, _FirstWait(began_s, began_s + _FIRST_LINE_S))
            if now_s < wait.next_line_s:
                return
            wait.lines += 1
            wait.next_line_s = now_s + min(2.0**wait.lines, _LONGEST_S)
        log.warning("waiting for Kafka at %s: %s", servers, describe())

    def failed(self, servers: str, text: str) -> None:
        """Note that a connection failed. text: as librdkafka describes it."""
        reason, now_s = reason_of(text), self._clock.monotonic_s()
        with self._lock:
            since_s = self._away_since_s.setdefault(servers, now_s)
            if servers in self._waits or now_s - since_s < _GRACE_S:
                return
            line = self._reports.failed(servers, reason, now_s=now_s)
        if line:
            log.warning("Kafka at %s can't be reached, trying again: %s", servers, line)

    def answered(self, servers: str) -> None:
        """Note that the cluster has answered."""
        with self._lock:
            self._answered.add(servers)
            self._away_since_s.pop(servers, None)
            wait = self._waits.pop(servers, None)
            line = self._reports.worked(servers, now_s=self._clock.monotonic_s())
            if wait is not None and wait.lines:
                line = "answers"
        if line:
            log.warning("Kafka at %s %s", servers, line)
