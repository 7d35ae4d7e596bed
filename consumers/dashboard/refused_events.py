"""The newest events of the quarantine: what the node refused, and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.consumers.dashboard.page_items import Fields, ItemKey, PageItems
from mirrorlog.domain.commands import Quarantined
from mirrorlog.errors import BadInput, KafkaFailed, OutOfRetention
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_through
from mirrorlog.status.overview import QuarantineNews

MAX_EVENTS: Final = 200
"""So many events are shown. `mirrorlog topics tail quarantine` prints all."""
_PARTITION: Final = 0
_HEAD_BYTES: Final = 48


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event of the quarantine. place: its position there. event: None if it can't be read."""

    place: int
    event: Quarantined | None


class RefusedEvents:
    """Follows the topic of the quarantine from its last MAX_EVENTS messages on. One thread."""

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topic: str,
        patience: ReadPatience,
    ) -> None:
        self._open_reader, self._admin, self._topic = open_reader, admin, topic
        self._patience = patience
        self._reader: TopicReader | None = None
        self._events: deque[RefusedEvent] = deque(maxlen=MAX_EVENTS)
        self._count = 0

    def refresh(self) -> None:
        """Take what is new. Raise KafkaFailed; the next call begins again then."""
        try:
            self._take_new()
        except OutOfRetention:  # the topic was made anew, or was emptied
            self.close()
            self._take_new()
        except KafkaFailed:
            self.close()
            raise

    def _take_new(self) -> None:
        first = self._admin.first_position(self._topic, _PARTITION)
        end = self._admin.end_position(self._topic, _PARTITION)
        if self._reader is not None and self._reader.reached(self._topic, _PARTITION) > end:
            self.close()
        if self._reader is None:
            self._events.clear()
            self._reader = self._open_reader()
            self._reader.assign(self._topic, {_PARTITION: max(first, end - MAX_EVENTS)})
        for message in read_through(self._reader, self._topic, {_PARTITION: end}, self._patience):
            self._events.append(RefusedEvent(message.position, _decoded(message)))
        self._count = max(0, end - first)

    @property
    def news(self) -> QuarantineNews:
        """What the overview says of the quarantine."""
        newest = next((event.event for event in reversed(self._events) if event.event), None)
        if newest is None:
            return QuarantineNews(count=self._count)
        return QuarantineNews(
            count=self._count,
            newest_at_us=newest.at_us,
            reason=newest.reason,
            text=newest.text,
            partition=newest.partition,
            position=newest.position,
        )

    def items(self) -> PageItems:
        """Return the items of the events, and one that says how many there are."""
        items: PageItems = {
            ItemKey("refused", str(event.place)): refused_fields(event) for event in self._events
        }
        items[ItemKey("quarantine", "")] = {"count": self._count, "shown": len(self._events)}
        return items

    def close(self) -> None:
        """Close the reader. The next refresh() opens another one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def refused_fields(refused: RefusedEvent) -> Fields:
    """Return what the page shows of an event. Its bytes are shown as hexadecimal digits."""
    event = refused.event
    if event is None:
        return {"place": refused.place, "text": "the quarantine's own event can't be read"}
    value = event.value or b""
    return {
        "place": refused.place,
        "at_us": event.at_us,
        "reason": event.reason,
        "text": event.text,
        "partition": event.partition,
        "position": event.position,
        "key": None if event.key is None else event.key[:200].decode("utf-8", "replace"),
        "value_bytes": len(value) if event.value_length is None else event.value_length,
        "value_head": value[:_HEAD_BYTES].hex(),
    }


def _decoded(message: Message) -> Quarantined | None:
    try:
        return decode(message.value or b"", Quarantined)
    except BadInput:
        return None
