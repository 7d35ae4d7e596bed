"""The topics to which sites and backups report, each read to its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.topics import Topics


class ProgressTopics:
    """The cluster's own topic of progress, and those that mirrors bring (Topics.all_progress)."""

    def __init__(
        self, reader: TopicReader, admin: TopicAdmin, topics: Topics, patience: ReadPatience
    ) -> None:
        self._reader, self._admin, self._patience = reader, admin, patience
        own, *self._awaited = topics.all_progress
        self._topics = [CompactedTopic(reader, admin, own, patience)]

    def read_to_end(self) -> Iterator[Message]:
        """Yield every message published before the call. Raise KafkaFailed as read_through.

        A topic that a mirror is to make, and hasn't made yet, holds no message.
        """
        self._look_for_mirrored()
        for topic in self._topics:  # they share the reader, which returns messages of all
            yield from topic.read_to_end()

    def poll(self, timeout_s: float) -> Iterable[Message]:
        """Return the messages that have arrived; wait up to `timeout_s` for one."""
        return self._topics[0].poll(timeout_s)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def _look_for_mirrored(self) -> None:
        existing = self._admin.names("") if self._awaited else set[str]()
        for name in [topic for topic in self._awaited if topic in existing]:
            self._topics.append(CompactedTopic(self._reader, self._admin, name, self._patience))
            self._awaited.remove(name)
