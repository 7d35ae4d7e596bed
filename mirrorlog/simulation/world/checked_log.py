"""The log as the checks of a world read it: all of it, again and again."""

from __future__ import annotations

from typing import Final, TypeAlias

from mirrorlog.ports.streams import Message
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.tracking_log.heads import SessionBeat, VolumeHead, Watermark
from mirrorlog.tracking_log.records import LogRecord

_Row: TypeAlias = LogRecord | VolumeHead | SessionBeat | Watermark | None


class CheckedLog:
    """Reads a changelog from its beginning for each check. Each message is decoded once."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self._topic = broker, topic
        self._rows: Final[dict[int, tuple[Message, _Row]]] = {}

    def read(self, site: str | None = None) -> LogReader:
        """Read the whole changelog; return the reader. site: with what this site has missed."""
        log = _CheckedReader(self._broker, self._topic, self._rows, site)
        while not log.caught_up():
            log.poll(0)
        return log


class _CheckedReader(LogReader):
    """A reader that takes rows which were decoded before.

    rows: by position, the message and its row. Checks change no row.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        topic: str,
        rows: dict[int, tuple[Message, _Row]],
        site: str | None,
    ) -> None:
        super().__init__(broker.reader(), broker, topic, site=site)
        self._rows = rows

    def _row(self, key: bytes, value: bytes, message: Message) -> _Row:
        known = self._rows.get(message.position)
        if known is None or known[0] is not message:
            known = self._rows[message.position] = (message, super()._row(key, value, message))
        return known[1]
