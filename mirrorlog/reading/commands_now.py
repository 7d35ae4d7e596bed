"""The commands topic as it is now, to hold a watermark against it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress

from mirrorlog.domain.histories import anchor_of
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.tracking_log.breaks import CommandsNow


def commands_now(
    open_reader: Callable[[], TopicReader],
    admin: TopicAdmin,
    topic: str,
    partition: int,
    position: int,
    patience: ReadPatience,
) -> CommandsNow:
    """Return the partition's bounds, and the digest of the command at `position`.

    position: of a watermark that was read before the call. At most one command is read, by a reader
    of its own. Raise KafkaFailed if the broker doesn't answer.
    """
    first_kept, end = admin.first_position(topic, partition), admin.end_position(topic, partition)
    anchor = None
    if first_kept <= position < end:
        anchor = anchor_at(open_reader, topic, partition, position, patience)
    return CommandsNow(topic=admin.identity(topic), first_kept=first_kept, end=end, anchor=anchor)


def anchor_at(
    open_reader: Callable[[], TopicReader],
    topic: str,
    partition: int,
    position: int,
    patience: ReadPatience,
) -> bytes | None:
    """Return the digest of the command at `position`; None if no command is kept there.

    The end of the partition must lie above the position. Raise KafkaFailed as read_through does.
    """
    with (
        suppress(OutOfRetention),
        closing(
            read_range(open_reader, topic, partition, patience, start=position, end=position + 1)
        ) as messages,
    ):
        return next((anchor_of(message.key, message.value) for message in messages), None)
    return None
