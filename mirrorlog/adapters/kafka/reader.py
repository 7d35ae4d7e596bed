"""Reads partitions of a Kafka cluster by position: the port mirrorlog.ports.streams.TopicReader."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import Any, Final

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from mirrorlog.adapters.kafka.client import (
    CHECK_BROKER,
    READ_UNCOMMITTED,
    ClientSettings,
    KafkaClient,
)
from mirrorlog.adapters.schema_registry.wire_format import wire_format_of
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.ports.streams import Message
from mirrorlog.topics import CLIENT_GROUPS, QUARANTINE_MAX_BYTES

log = logging.getLogger("mirrorlog.kafka")

SILENCE_S: Final = 30.0
"""The time without a message after which a reader assigns its partitions again."""
QUEUE_BYTES: Final = 64 << 20
"""How much a reader fetches ahead of poll()."""
_END_TOLD_MS: Final = 50
"""How long the broker holds a fetch that finds nothing. Only its answer tells the end."""
_FOLLOWED_MS: Final = 500
"""The same where nobody waits for the end: a message ends a fetch at once in any case."""
_FETCH_BYTES: Final = 52_428_800
"""How much librdkafka asks for at once: the default of its fetch.max.bytes."""


class KafkaReader:
    """TopicReader with auto.offset.reset `error`: it never skips positions that Kafka deleted.

    After requests that timed out, librdkafka may fetch a partition no more and report nothing
    (confluentinc/librdkafka#4492). So a reader that has received nothing for `silence_s` assigns
    its partitions again, at the positions that it has reached. On an idle topic that costs a few
    requests.
    """

    def __init__(
        self,
        settings: ClientSettings,
        patience_s: float = 30.0,
        *,
        silence_s: float = SILENCE_S,
        with_headers: bool = False,
        queue_bytes: int = QUEUE_BYTES,
        tells_end: bool = True,
    ) -> None:
        """Create the reader.

        with_headers: messages have their headers, which takes time.
        queue_bytes: how much is fetched ahead of poll(). One fetch may go beyond that, by as much
            again: poll() returns up to twice as much at once.
        tells_end: False for a reader that follows its partitions for long: at_end() may be True
            half a second late, as reached() is if the last positions hold no message, and so may
            the first message of a partition that is added later. An idle reader then asks the
            broker twice a second instead of 20 times.
        """
        self._with_headers = with_headers
        self._patience_s, self._silence_s = patience_s, silence_s
        self._heard_s = monotonic()
        # assign() needs no group, but librdkafka needs a name. Nothing is committed under it.
        self._client = KafkaClient(
            Consumer,
            {
                "group.id": f"{CLIENT_GROUPS}reader",
                "fetch.wait.max.ms": _END_TOLD_MS if tells_end else _FOLLOWED_MS,
                "fetch.message.max.bytes": QUARANTINE_MAX_BYTES,
                "fetch.max.bytes": min(queue_bytes, _FETCH_BYTES),
                "queued.max.messages.kbytes": queue_bytes >> 10,
                # The pause after that queue was full. The default is a second without any fetch.
                "fetch.queue.backoff.ms": 10,
                **settings,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                **READ_UNCOMMITTED,
            },
            run_callbacks=self._poll_early,
        )
        self._early: list[Any] = []
        self._wire_format = wire_format_of(settings)
        self._reached: dict[tuple[str, int], int] = {}
        self._at_end: set[tuple[str, int]] = set()

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        """Add partitions of a topic, each from a position on (None: from the oldest kept).

        A partition that was added before begins again there.
        """
        added, again = [], []
        for partition, position in positions.items():
            start = self._first_position(topic, partition) if position is None else position
            if (topic, partition) in self._reached:
                again.append(TopicPartition(topic, partition))
                self._at_end.discard((topic, partition))
            self._reached[topic, partition] = start
            added.append(TopicPartition(topic, partition, start))
        try:
            if again:
                self._client.raw.incremental_unassign(again)
            self._client.raw.incremental_assign(added)
        except KafkaException as error:
            raise KafkaFailed(
                f"reading can't begin: {error}", where=f"topic {topic}", next=CHECK_BROKER
            ) from error

    def unassign(self, topic: str, partitions: Collection[int]) -> None:
        """Remove partitions of a topic that were added. poll() returns no message of them then."""
        for partition in partitions:
            del self._reached[topic, partition]
            self._at_end.discard((topic, partition))
        try:
            self._client.raw.incremental_unassign(
                [TopicPartition(topic, partition) for partition in partitions]
            )
        except KafkaException as error:
            raise KafkaFailed(
                f"reading can't end: {error}", where=f"topic {topic}", next=CHECK_BROKER
            ) from error

    def _first_position(self, topic: str, partition: int) -> int:
        def watermarks(timeout_s: float) -> tuple[int, int]:
            pair: tuple[int, int] = self._client.raw.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=timeout_s
            )
            return pair

        low, _ = self._client.request(
            watermarks,
            patience_s=self._patience_s,
            doing="asking for the oldest position",
            where=f"topic {topic}, partition {partition}",
        )
        return int(low)

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """Return up to `max_messages` messages, in order within each partition."""
        self._client.check()
        # consume() would wait the whole timeout for the full number of messages. So poll() waits
        # for the first one, and consume() adds those that have arrived.
        raw, self._early = self._early, []
        if not raw and (first := self._client.raw.poll(timeout_s)) is not None:
            raw = [first]
        if raw:
            self._heard_s = monotonic()
            raw += self._client.raw.consume(max(max_messages - len(raw), 0), 0)
            if self._client.is_away and any(_is_answer(event) for event in raw):
                self._client.note_answer()
        elif monotonic() - self._heard_s >= self._silence_s:
            self._assign_again()
        if self._wire_format is not None:
            self._learn_schemas(raw)
        return [message for event in raw if (message := self._message(event)) is not None]

    def _assign_again(self) -> None:
        """Fetch every partition again from the position that the reader has reached."""
        self._heard_s = monotonic()
        partitions = [TopicPartition(*at, reached) for at, reached in self._reached.items()]
        try:
            self._client.raw.incremental_unassign(partitions)
            self._client.raw.incremental_assign(partitions)
        except KafkaException as error:
            log.debug("assigning partitions again failed: %s", error)

    def _poll_early(self) -> None:
        """Poll the client between two requests. poll() returns later what arrived."""
        if (early := self._client.raw.poll(0)) is not None:
            self._early.append(early)

    def reached(self, topic: str, partition: int) -> int:
        """Return the position below which poll() has returned every message that is kept."""
        return self._reached[topic, partition]

    def at_end(self, topic: str, partition: int) -> bool:
        """Return whether the last fetch of the partition returned nothing more."""
        return (topic, partition) in self._at_end

    def _learn_schemas(self, raw: list[Any]) -> None:
        """Ask the registry for the schemas in events that aren't known.

        If it doesn't answer, the next poll() begins with the same events. Raise KafkaFailed.
        """
        assert self._wire_format is not None
        values = (event.value() for event in raw if event.error() is None)
        try:
            for schema_id in self._wire_format.unknown_ids(values):
                self._wire_format.learn(schema_id)
        except KafkaFailed:
            self._early = raw + self._early
            raise

    def _message(self, event: Any) -> Message | None:
        """Return the message in an event of librdkafka.

        Return None for a partition's end, a short outage, or a partition that was removed.
        """
        error = event.error()
        # Each call costs time, and there is one event a message.
        at, offset = (event.topic(), event.partition()), event.offset()
        if at[0] is not None and at not in self._reached:
            return None  # it was fetched before the partition was removed
        if error is None:
            value = event.value()
            if self._wire_format is not None:
                value = self._wire_format.incoming(value)
            self._reached[at] = offset + 1
            self._at_end.discard(at)
            kind, at_ms = event.timestamp()
            at_us = 0 if kind == TIMESTAMP_NOT_AVAILABLE else at_ms * 1000
            by_broker = kind == TIMESTAMP_LOG_APPEND_TIME
            headers = tuple(event.headers() or ()) if self._with_headers else ()
            return Message(*at, offset, event.key(), value, at_us, by_broker, headers)
        if error.code() == KafkaError._PARTITION_EOF:
            # Compaction may have removed the last messages. The end is reached all the same.
            self._reached[at] = offset
            self._at_end.add(at)
            return None
        where = f"topic {at[0]}, partition {at[1]}, position {offset}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise OutOfRetention(
                "the topic no longer holds the position at which reading continues: retention has "
                "deleted it, or the topic was emptied or created again",
                where=where,
                next="Start this again: it begins at what is kept, and says what it lacks. See why "
                "the topic lost it: `mirrorlog doctor` compares its settings.",
            )
        if error.retriable() or error.code() in (
            KafkaError._ALL_BROKERS_DOWN,
            KafkaError._TRANSPORT,
        ):
            return None
        raise KafkaFailed(f"reading failed: {error.str()}", where=where, next=CHECK_BROKER)

    def close(self) -> None:
        """Release the client."""
        self._client.raw.close()


def _is_answer(event: Any) -> bool:
    """Return whether an event of librdkafka came from a broker: a message, or a partition's end."""
    return event.error() is None or event.error().code() == KafkaError._PARTITION_EOF
