"""The newest watermark of a partition, read from the end of the changelog."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

_FIRST_ROWS: Final = 64
_GROWTH: Final = 8


def newest_watermark(
    open_reader: Callable[[], TopicReader],
    admin: TopicAdmin,
    topic: str,
    partition: int,
    patience: ReadPatience,
) -> Watermark | None:
    """Return the watermark of the highest order among the last rows of the changelog.

    None if the partition has none. Every flush ends with its watermark, so the last rows have one;
    if they have none, more of them are read. Raise KafkaFailed if the broker doesn't answer.
    """
    first, end = admin.first_position(topic, partition), admin.end_position(topic, partition)
    key, rows = watermark_key(partition), _FIRST_ROWS
    while True:
        start = max(first, end - rows)
        newest: Watermark | None = None
        for message in read_range(open_reader, topic, partition, patience, start=start, end=end):
            if message.key == key and message.value is not None:
                watermark = decode(message.value, Watermark)
                if newest is None or watermark.order >= newest.order:
                    newest = watermark
        if newest is not None or start == first:
            return newest
        rows *= _GROWTH
