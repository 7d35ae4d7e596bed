"""What the commands topic holds, held against what the archive holds of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.command_files import decode_commands, last_message
from mirrorlog.archive.manifests import FileKind, LastMessage, Manifest
from mirrorlog.consumers.archive.plan import ArchiveView
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_range


class TopicComparison:
    """Reads ranges of the commands topic, and compares them with an archive."""

    def __init__(
        self,
        archive: Archive,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topic: str,
        patience: ReadPatience,
    ) -> None:
        self._archive, self._open_reader, self._admin = archive, open_reader, admin
        self._topic, self._patience = topic, patience

    def messages(self, partition: int, *, after: int, end: int) -> Generator[Message]:
        """Yield the topic's messages at positions above `after` and below `end`."""
        return read_range(
            self._open_reader,
            self._topic,
            partition,
            self._patience,
            start=after + 1,
            end=end,
        )

    def last_is_same(
        self, partition: int, last: LastMessage | None, first_kept: int, end: int
    ) -> bool | None:
        """Return whether the topic holds the last archived message; None if it can't be known.

        last: None if nothing is archived yet. first_kept, end: of the topic.
        """
        if last is None or last.position < first_kept:
            return None
        return self._is_kept(partition, last, end)

    def _is_kept(self, partition: int, last: LastMessage, end: int) -> bool:
        """Return whether the topic, which ends at `end`, holds that very message."""
        if last.position >= end:
            return False
        messages = self.messages(partition, after=last.position - 1, end=last.position + 1)
        with closing(messages):
            return any(last_message(message) == last for message in messages)

    def common_through(self, view: ArchiveView) -> int:
        """Return through which position the topic holds what the line before it holds.

        One equal message stands for all before it, because a topic is only appended to. So whole
        manifests are compared by their last messages, from the last one back, and only what differs
        is compared message by message. What the topic no longer keeps can't be compared, and counts
        as common.
        """
        end = self._admin.end_position(self._topic, view.partition)
        line = self._archive.line(view.partition, view.topic)
        for part in reversed(line):
            for manifest in reversed(list(part.chain.manifests)):
                through = min(manifest.through, part.through)
                if through <= manifest.after:
                    continue
                last = manifest.last
                if last is None or last.position < view.first_kept:
                    return through
                is_whole = through == manifest.through
                if is_whole and self._is_kept(view.partition, last, end):
                    return min(through, end - 1)
                common = self._common_in(manifest, through, view.first_kept, end)
                if common is not None:
                    return common
        return line[0].chain.after

    def _common_in(self, manifest: Manifest, through: int, first_kept: int, end: int) -> int | None:
        """Return the last position of a manifest at which the topic holds the archived message.

        through: where the manifest's part of the line ends. None: no message of it is common.
        """
        after = max(manifest.after, first_kept - 1)
        common = None if after == manifest.after else after
        with closing(
            self.messages(manifest.partition, after=after, end=min(through + 1, end))
        ) as messages:
            now = {message.position: last_message(message) for message in messages}
        for file in manifest.files_of(FileKind.COMMANDS):
            archived = decode_commands(
                self._archive.content(file),
                manifest.topic_name,
                manifest.partition,
                after=after,
                through=through,
                where=file.name,
            )
            for message in archived:
                if now.get(message.position) != last_message(message):
                    return common
                common = message.position
        return common
