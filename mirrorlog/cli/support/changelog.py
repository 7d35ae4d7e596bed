"""The tracking log of one partition as the changelog holds it, and the commands that it is from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.lookup import patience_for, read_topic
from mirrorlog.codec.events import decode
from mirrorlog.domain.histories import NO_EPOCH
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import read_through
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord


def read_changelog(settings: Settings, partition: int) -> tuple[list[LogRecord], int]:
    """Return the records of one partition as compaction would leave them, and its watermark.

    Records above the watermark are left out. The watermark is -1 if the log has none. What lies
    before a watermark of a later history belongs to an earlier one, and is left out.
    Errors: KafkaFailed as read_through raises it.
    """
    entries: dict[bytes, bytes] = {}
    newest = NewestWatermark()
    for message in changelog_messages(settings, partition):
        if message.key is None:
            continue
        if message.value is None:
            entries.pop(message.key, None)
        elif key_kind(message.key) is not Watermark:
            entries[message.key] = message.value
        elif newest.take(decode(message.value, Watermark)):
            entries.clear()
    records = (
        decode(value, LogRecord) for key, value in entries.items() if key_kind(key) is LogRecord
    )
    through = newest.through
    return [record for record in records if record.through <= through], through


class NewestWatermark:
    """The watermark of the latest history, and in it the highest, of those that were taken."""

    def __init__(self) -> None:
        self._newest: Watermark | None = None

    @property
    def through(self) -> int:
        """Its position; BEFORE_FIRST before the first one."""
        return BEFORE_FIRST if self._newest is None else self._newest.through

    @property
    def epoch(self) -> int:
        """The epoch of its history; NO_EPOCH before the first one."""
        return NO_EPOCH if self._newest is None else self._newest.epoch

    def take(self, watermark: Watermark) -> bool:
        """Take a watermark. Return whether it begins a later history than those before it.

        What was read before it then belongs to an earlier history.
        """
        before = self._newest
        if before is None or watermark.order >= before.order:
            self._newest = watermark
        return before is not None and watermark.epoch > before.epoch


def changelog_messages(settings: Settings, partition: int) -> Iterator[Message]:
    """Yield the changelog of one partition to its end, and then to the end that it has by then.

    Records may be rolled up and compacted away before this reader meets them. Their roll-up lies
    before the second end. Errors: KafkaFailed as read_through raises it.
    """
    topic, patience = settings.topics.changelog, patience_for("reading the tracking log")
    with (
        closing(KafkaAdmin(settings.kafka_client())) as admin,
        closing(KafkaReader(settings.kafka_client())) as reader,
    ):
        reader.assign(topic, {partition: None})
        for _ in range(2):
            end = admin.end_position(topic, partition)
            yield from read_through(reader, topic, {partition: end}, patience)


@dataclass(frozen=True, slots=True)
class ComparedRange:
    """The commands of a partition with which its log can be compared: [first, through].

    first: the oldest command that is kept. through: the watermark of the log, -1 if it has none.
    end: where the commands end. Those above `through` aren't in the log yet.
    """

    partition: int
    first: int
    through: int
    end: int

    @property
    def is_empty(self) -> bool:
        """Return whether there are commands, or a log, and nothing of them can be compared."""
        return self.through < self.first and max(self.end, self.through + 1) > 0

    def __str__(self) -> str:
        compared = (
            "nothing can be compared"
            if self.through < self.first
            else f"positions {self.first} to {self.through} were compared"
        )
        waiting = self.end - 1 - max(self.through, self.first - 1)
        tail = f"; {waiting} later positions aren't in the log yet" if waiting > 0 else ""
        return f"partition {self.partition}: {compared}{tail}"


def compared_range(settings: Settings, partition: int, through: int) -> ComparedRange:
    """Return with which commands the log of a partition can be compared. through: its watermark."""
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        first, end = admin.bounds(settings.topics.commands, partition)
    return ComparedRange(partition, first, through, end)


@dataclass(frozen=True, slots=True)
class TableRange:
    """Through which position a table is to be compared; None: not at all. note: why not to W."""

    through: int | None
    note: str = ""


def table_range(held: Watermark | None, newest: NewestWatermark) -> TableRange:
    """Return what of this machine's table of a partition can be compared with the commands.

    held: the watermark in the table; None if there is no table, or none in it. newest: that of the
    changelog. A table says by its watermark that it is complete, as of a history. It is behind if
    its worker has the rest in memory, doesn't run, or lost the partition to another worker.
    """
    if held is None:
        return TableRange(
            None,
            "this machine has no complete table of it in files; only the changelog was compared",
        )
    if held.epoch != newest.epoch:
        return TableRange(
            None,
            "this machine's table of it is of an earlier history; only the changelog was compared",
        )
    if held.through < newest.through:
        return TableRange(
            held.through,
            f"this machine's table of it ends at {held.through}, and was compared up to there: its "
            "worker has the rest in memory (node_table_file_s), or doesn't run, or another one has "
            f"the partition; the log ends at {newest.through}",
        )
    return TableRange(newest.through)


def commands_through(settings: Settings, partition: int, through: int) -> Iterator[Message]:
    """Yield the commands of one partition up to the position `through`, from the oldest kept."""
    has_keys = settings.node_host_keys_file is not None
    messages = read_topic(settings, settings.topics.commands, partition, with_headers=has_keys)
    return (message for message in messages if message.position <= through)
