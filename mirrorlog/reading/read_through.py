"""Read topics up to an end that is fixed before the first message, within a patience.

Every reader that has to see all that was there when it asked goes through here. Nothing waits for
ever: if no partition makes progress for the patience, KafkaFailed says how far the reader came.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader

_PARTITION = 0


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class ReadPatience:
    """The time for which a reader waits for a topic, and the text of the error after that.

    patience_s: the reader gives up after so many seconds without progress in any partition.
    purpose: what is being done, for the error, such as "reading the volumes' descriptions".
    before_poll: called before each poll. It may pause, or raise to give the reading up.
    poll_s: how long one poll waits for a message.
    """

    clock: Clock
    patience_s: float
    purpose: str
    before_poll: Callable[[], None] = _do_nothing
    poll_s: float = 0.1


def read_through(
    reader: TopicReader, topic: str, ends: Mapping[int, int], patience: ReadPatience
) -> Iterator[Message]:
    """Yield the messages of `topic` until the reader has reached the end of each partition.

    ends: by partition, the position behind the last message to be read. The partitions must be
    assigned to the reader, which may have others too.

    Positions may have gaps (compaction, aborted transactions, control records). So the position
    that the reader reached decides, not the messages. The messages of one poll are in memory at a
    time. A poll may return messages at or above an end, or of another partition of the reader:
    they are yielded too, because the reader doesn't return them again. `read_range` drops them.

    Raise KafkaFailed after `patience.patience_s` without progress, OutOfRetention as the reader's
    poll() does.
    """
    reached = {partition: reader.reached(topic, partition) for partition in ends}
    progress_at_s = patience.clock.monotonic_s()
    while any(reached[partition] < end for partition, end in ends.items()):
        patience.before_poll()
        yield from reader.poll(patience.poll_s)
        before, reached = reached, {number: reader.reached(topic, number) for number in ends}
        now_s = patience.clock.monotonic_s()
        if reached != before:
            progress_at_s = now_s
        elif now_s - progress_at_s > patience.patience_s:
            raise _gave_up(topic, reached, ends, patience)


def read_range(
    open_reader: Callable[[], TopicReader],
    topic: str,
    partition: int,
    patience: ReadPatience,
    *,
    start: int | None,
    end: int,
) -> Generator[Message]:
    """Yield the messages of one partition at the positions [start, end), from a new reader.

    start: None begins at the oldest position that is kept.
    The reader is closed when the generator ends or is closed. Raise what read_through raises.
    """
    if start is not None and start >= end:
        return
    with closing(open_reader()) as reader:
        reader.assign(topic, {partition: start})
        for message in read_through(reader, topic, {partition: end}, patience):
            if message.position < end:
                yield message


class CompactedTopic:
    """The one partition of a compacted topic, read from its beginning and followed as it grows."""

    def __init__(
        self, reader: TopicReader, admin: TopicAdmin, topic: str, patience: ReadPatience
    ) -> None:
        self._reader, self._admin, self._topic, self._patience = reader, admin, topic, patience
        self.start_over()

    def start_over(self) -> None:
        """Read from the beginning again."""
        self._reader.assign(self._topic, {_PARTITION: None})

    def read_to_end(self) -> Iterator[Message]:
        """Yield every message published before the call. Raise KafkaFailed as read_through."""
        ends = {_PARTITION: self._admin.end_position(self._topic, _PARTITION)}
        yield from read_through(self._reader, self._topic, ends, self._patience)

    def poll(self, timeout_s: float) -> Iterable[Message]:
        """Return the messages that have arrived; wait up to `timeout_s` for one."""
        return self._reader.poll(timeout_s)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


def _gave_up(
    topic: str, reached: Mapping[int, int], ends: Mapping[int, int], patience: ReadPatience
) -> KafkaFailed:
    partition = next(number for number, end in ends.items() if reached[number] < end)
    return KafkaFailed(
        f"{patience.purpose} got no further for {patience.patience_s:g} s",
        where=f"topic {topic}, partition {partition}, "
        f"reached position {reached[partition]} of {ends[partition]}",
        next="Check that the broker answers, then try again.",
    )
