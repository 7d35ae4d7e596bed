"""Publishes reports to a Kafka topic: the port mirrorlog.ports.reports.ReportSink.

It has a thread and a client of its own. So a cluster without the topic, one that refuses the
message, or one that is away costs the sender nothing, and its other messages aren't refused.
"""

from __future__ import annotations

import logging
from contextlib import closing
from threading import Condition, Thread
from typing import Final

from mirrorlog.adapters.kafka.admin import KafkaAdmin
from mirrorlog.adapters.kafka.client import ClientSettings
from mirrorlog.adapters.kafka.publisher import KafkaPublisher
from mirrorlog.errors import KafkaFailed, MirrorlogError

log = logging.getLogger("mirrorlog.reports")

_PATIENCE_S: Final = 5.0
_RETRY_S: Final = 30.0
_CLOSE_S: Final = 3.0
_PARTITION: Final = 0


class ReportPublisher:
    """Publishes the newest report of each key. Any thread may call it.

    topic: it has one partition. If it doesn't exist, or may not be written, that is logged once,
    and tried again every `retry_s` seconds.
    """

    def __init__(self, settings: ClientSettings, topic: str, *, retry_s: float = _RETRY_S) -> None:
        self._settings, self._topic, self._retry_s = settings, topic, retry_s
        self._changed: Final = Condition()
        self._waiting: dict[bytes, bytes] = {}
        self._is_closing = self._is_failing = False
        self._thread: Thread | None = None
        self._publisher: KafkaPublisher | None = None
        self._has_said = False

    def publish(self, key: bytes, value: bytes) -> None:
        """Take a report in place of an earlier one of its key."""
        with self._changed:
            if self._is_closing:
                return
            self._waiting[key] = value
            if self._thread is None:
                self._thread = Thread(target=self._run, name="mirrorlog-reports", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Publish what was taken, unless that fails already or takes more than _CLOSE_S seconds."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
            wait_s = 0.0 if self._is_failing else _CLOSE_S
        if self._thread is not None:
            self._thread.join(wait_s)

    def _run(self) -> None:
        """Publish reports until close()."""
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                taken, self._waiting = self._waiting, {}
                is_last = self._is_closing
            try:
                self._send(taken)
                self._is_failing = False
            except MirrorlogError as error:
                self._is_failing = True
                log.debug("reports can't be published: %s", error)
                self._close_client()
                self._put_back(taken)
        self._close_client()

    def _send(self, reports: dict[bytes, bytes]) -> None:
        if not reports:
            return
        if self._publisher is None:
            # Producing to a topic that doesn't exist may create it, with the wrong settings.
            with closing(KafkaAdmin(self._settings, _PATIENCE_S)) as admin:
                if self._topic not in admin.names(self._topic):
                    self._say("it doesn't exist, or may not be seen")
                    raise KafkaFailed("there is no such topic", where=f"topic {self._topic}")
            self._publisher = KafkaPublisher(self._settings)
        try:
            for key, value in reports.items():
                self._publisher.publish(self._topic, _PARTITION, key, value)
            self._publisher.flush(_PATIENCE_S)
        except KafkaFailed as error:
            if self._publisher.is_refused:
                self._say(error.what)
            raise

    def _say(self, reason: str) -> None:
        """Log why nothing is reported, the first time."""
        if not self._has_said:
            self._has_said = True
            log.warning(
                "nothing is reported to the topic %s: %s. `mirrorlog topics create` creates it. "
                "Until then `mirrorlog status` doesn't show this process; all else goes on",
                self._topic,
                reason,
            )

    def _put_back(self, reports: dict[bytes, bytes]) -> None:
        """Keep what couldn't be sent, behind newer reports, and wait before the next attempt."""
        with self._changed:
            self._waiting = reports | self._waiting
            self._changed.wait_for(lambda: self._is_closing, self._retry_s)

    def _close_client(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
