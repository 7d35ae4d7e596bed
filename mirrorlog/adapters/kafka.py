"""Kafka through confluent-kafka: the ports of mirrorlog.ports.streams on a real cluster.

Any librdkafka setting that the user passes is handed on; what an invariant stands on is set last and can't be overruled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import stamina
from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from mirrorlog.errors import BadUse, KafkaFailed, OutOfRetention
from mirrorlog.ports.streams import Acknowledged, Message
from mirrorlog.topics import QUARANTINE_MAX_BYTES, TopicSpec

ClientSettings = Mapping[str, str | int | bool]
_REQUEST_S: Final = 10.0
_FIRST_REQUEST_S: Final = 2.0
_AWAY: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._DESTROY,  # of one broker: the cluster has just told of others, or of none
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._WAIT_COORD,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""What a broker answers, or doesn't, while it is away, elects a leader or has only just made the topic."""
_CHECK: Final = "Check bootstrap.servers, security.protocol and that the broker runs."
_CHECK_RIGHTS: Final = (
    "Check security.protocol and the sasl.* and ssl.* settings (-X, -F, [kafka])."
)


_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
"""What librdkafka says of a connection that asking again doesn't mend: the login, or a certificate."""


class _Client:
    """A librdkafka client, asked until it answers, and what it last said of its connections.

    librdkafka goes on trying for ever, also where it is refused: questions only time out. Why, it tells a callback, and
    that runs when the client is polled.

    hear: polls the client without losing a message.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        settings: Mapping[str, Any],
        hear: Callable[[], object] | None = None,
    ) -> None:
        self._said: KafkaError | None = None
        # librdkafka's log lines go to Python's logging: while a broker is away it writes twenty a second.
        log = logging.getLogger("mirrorlog.kafka")
        try:
            self.raw: Any = make({**settings, "error_cb": self._note}, logger=log)
        except (KafkaException, ValueError, TypeError) as error:
            raise BadUse(
                f"Kafka's client refuses its settings: {error}", next="Check -X, -F and [kafka]."
            ) from error
        self._hear = hear or (lambda: self.raw.poll(0))
        self._servers = str(settings.get("bootstrap.servers"))

    def _note(self, error: KafkaError) -> None:
        if (
            error.code() != KafkaError._ALL_BROKERS_DOWN
        ):  # follows every other one, and says nothing of why
            self._said = error

    def _is_refused(self) -> bool:
        # In TLS 1.3 a broker refuses a client's certificate after the handshake: librdkafka calls that a lost connection.
        said = self._said
        return said is not None and (said.code() in _REFUSED or "SSL alert number" in said.str())

    def ask(
        self, question: Callable[[float], Any], patience_s: float, doing: str, where: str
    ) -> Any:
        """The answer; asked again while the cluster is away, KafkaFailed after `patience_s` or where it refuses.

        question: is given how long it may take, in seconds; the first ones are short, for a refusal is heard after each.
        """

        def is_away(error: Exception) -> bool:
            self._hear()
            if (
                not isinstance(error, KafkaException)
                or error.args[0].code() not in _AWAY
                or self._is_refused()
            ):
                return False
            if error.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                # librdkafka believes for minutes what a broker said that had just come back, and didn't lead anything yet.
                with suppress(KafkaException):
                    self.raw.list_topics(timeout=_FIRST_REQUEST_S)
            return True

        try:
            for attempt in stamina.retry_context(
                is_away, attempts=None, timeout=patience_s, wait_initial=0.05, wait_max=2.0
            ):
                with attempt:
                    answer = question(min(attempt.num * _FIRST_REQUEST_S, _REQUEST_S))
                    self._said = None
                    return answer
        except KafkaException as error:
            why = f"; {self._said.str()}" if self._said else ""
            raise KafkaFailed(
                f"{doing} failed: {error.args[0].str()}{why}",
                where=where,
                next=_CHECK_RIGHTS if self._is_refused() else _CHECK,
            ) from error
        raise AssertionError("a retry context ends by a return or by an error")

    def check(self) -> None:
        """KafkaFailed where the cluster refuses this client now; a refusal that has passed is forgotten."""
        if self._is_refused():
            self.ask(
                lambda within_s: self.raw.list_topics(timeout=within_s),
                _REQUEST_S,
                "talking to Kafka",
                self._servers,
            )


class KafkaPublisher:
    """acks=all and idempotent; retries for ever, so that a broker that is away only delays (invariant 1)."""

    def __init__(self, settings: ClientSettings) -> None:
        self._refused: KafkaFailed | None = None
        self._client = _Client(
            Producer,
            {
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.kbytes": 65536,
                "message.max.bytes": QUARANTINE_MAX_BYTES,
                **settings,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 0,
            },
        )

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Queues one message; blocks while the queue is full."""

        def delivered(error: KafkaError | None, message: KafkaMessage) -> None:
            if error is not None:
                self._refused = KafkaFailed(
                    f"Kafka refused a message: {error.str()}",
                    where=f"topic {topic}, partition {partition}, key {key[:60]!r}",
                    next="Mend the topic or the rights, then start again: nothing that was refused counts as published.",
                )
            elif on_acknowledged is not None:
                position = message.offset()
                assert position is not None
                on_acknowledged(position)

        while True:
            self._raise_refusal()
            try:
                self._client.raw.produce(topic, value, key, partition, on_delivery=delivered)
                return
            except BufferError:
                self._client.raw.poll(0.1)
            except KafkaException as error:
                raise KafkaFailed(
                    f"Kafka refused a message: {error}", where=f"topic {topic}", next=_CHECK
                ) from error

    def poll(self, timeout_s: float) -> None:
        """Runs the callbacks that are due."""
        self._client.raw.poll(timeout_s)
        self._raise_refusal()

    def flush(self, deadline_s: float) -> None:
        """Returns when everything queued is acknowledged."""
        left = self._client.raw.flush(deadline_s)
        self._raise_refusal()
        if left:
            raise KafkaFailed(
                f"{left} messages weren't acknowledged within {deadline_s:g} s", next=_CHECK
            )

    def close(self) -> None:
        """Lets go of the client; what isn't acknowledged may be lost."""
        self._client.raw.purge()
        with suppress(KafkaException):
            self._client.raw.flush(1.0)

    def _raise_refusal(self) -> None:
        if self._refused is not None:
            raise self._refused
        self._client.check()


class KafkaReader:
    """Whole partitions by position. auto.offset.reset is `error`: a position that is gone is never passed over."""

    def __init__(self, settings: ClientSettings, patience_s: float = 30.0) -> None:
        self._patience_s = patience_s
        # assign() needs no group, but librdkafka wants a name; nothing is ever committed under it.
        self._client = _Client(
            Consumer,
            {
                "group.id": "mirrorlog.reader",
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": QUARANTINE_MAX_BYTES,
                "queued.max.messages.kbytes": 65536,
                "fetch.queue.backoff.ms": 10,  # once that is full; by default a second, in which nothing is read
                **settings,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
            },
            hear=self._take_early,
        )
        self._early: list[Any] = []
        self._reached: dict[tuple[str, int], int] = {}
        self._at_end: set[tuple[str, int]] = set()

    def assign(self, topic: str, positions: Mapping[int, int | None]) -> None:
        """Adds partitions of a topic, each from a position on (None: from the oldest kept)."""
        added = []
        for partition, position in positions.items():
            start = self._first(topic, partition) if position is None else position
            self._reached[topic, partition] = start
            added.append(TopicPartition(topic, partition, start))
        try:
            self._client.raw.incremental_assign(added)
        except KafkaException as error:
            raise KafkaFailed(
                f"reading can't begin: {error}", where=f"topic {topic}", next=_CHECK
            ) from error

    def _first(self, topic: str, partition: int) -> int:
        def question(within_s: float) -> int:
            return int(
                self._client.raw.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=within_s
                )[0]
            )

        where = f"topic {topic}, partition {partition}"
        return int(
            self._client.ask(question, self._patience_s, "asking for the oldest position", where)
        )

    def poll(self, timeout_s: float, most: int = 1000) -> Sequence[Message]:
        """Up to `most` messages, in order per partition."""
        # librdkafka waits the whole time out for the full number: take one first, then what is there.
        self._client.check()
        raw, self._early = self._early, []
        if not raw and (first := self._client.raw.poll(timeout_s)) is not None:
            raw = [first]
        if raw:
            raw += self._client.raw.consume(max(most - len(raw), 0), 0)
        return [message for each in raw if (message := self._message(each)) is not None]

    def _take_early(self) -> None:
        """Polls between two questions; a message that comes is kept for `poll`."""
        if (early := self._client.raw.poll(0)) is not None:
            self._early.append(early)

    def reached(self, topic: str, partition: int) -> int:
        """Everything kept below this position was handed out."""
        return self._reached[topic, partition]

    def at_end(self, topic: str, partition: int) -> bool:
        """Whether the last fetch found nothing more."""
        return (topic, partition) in self._at_end

    def _message(self, raw: Any) -> Message | None:
        error = raw.error()
        if error is None:
            self._reached[raw.topic(), raw.partition()] = raw.offset() + 1
            self._at_end.discard((raw.topic(), raw.partition()))
            kind, at_ms = raw.timestamp()
            at_us = 0 if kind == TIMESTAMP_NOT_AVAILABLE else at_ms * 1000
            return Message(
                raw.topic(), raw.partition(), raw.offset(), raw.key(), raw.value(), at_us
            )
        if error.code() == KafkaError._PARTITION_EOF:
            # Compaction may have taken the last messages away: the end is reached all the same.
            self._reached[raw.topic(), raw.partition()] = raw.offset()
            self._at_end.add((raw.topic(), raw.partition()))
            return None
        where = f"topic {raw.topic()}, partition {raw.partition()}, position {raw.offset()}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise OutOfRetention(
                "the topic no longer holds the position to go on from",
                where=where,
                next="A resync is needed.",
            )
        if error.retriable() or error.code() in (
            KafkaError._ALL_BROKERS_DOWN,
            KafkaError._TRANSPORT,
        ):
            return None
        raise KafkaFailed(f"reading failed: {error.str()}", where=where, next=_CHECK)

    def close(self) -> None:
        """Lets go of the client."""
        self._client.raw.close()


class KafkaAdmin:
    """Topics made, and asked where they begin and end."""

    def __init__(self, settings: ClientSettings, patience_s: float = 30.0) -> None:
        self._settings, self._patience_s = dict(settings), patience_s
        self._admin = _Client(AdminClient, settings)
        self._asker = self._member("mirrorlog.asker")

    def _member(self, group: str) -> _Client:
        return _Client(Consumer, {**self._settings, "group.id": group, "enable.auto.commit": False})

    def wait_ready(self, deadline_s: float) -> None:
        """Returns when a broker answers; KafkaFailed at the deadline."""
        where = str(self._settings.get("bootstrap.servers"))
        self._admin.ask(
            lambda _: self._admin.raw.list_topics(timeout=2.0),
            deadline_s,
            "asking for a broker",
            where,
        )

    def brokers(self) -> int:
        """How many brokers the cluster has."""
        return len(self._list().brokers)

    def create(self, specs: Sequence[TopicSpec], partitions: int, copies: int = 1) -> None:
        """Makes the topics that aren't there, in `copies` of which all but one must be in sync; others stay as they are."""
        durable = {"min.insync.replicas": str(max(1, copies - 1))}
        wanted = [
            NewTopic(
                s.name, 1 if s.one_partition else partitions, copies, config={**durable, **s.config}
            )
            for s in specs
        ]
        for name, future in self._admin.raw.create_topics(
            wanted, request_timeout=_REQUEST_S
        ).items():
            try:
                future.result(timeout=_REQUEST_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise KafkaFailed(
                        f"the topic can't be made: {error}", where=f"topic {name}", next=_CHECK
                    ) from error

        self._wait_led({spec.name for spec in specs})

    def _wait_led(self, names: set[str]) -> None:
        """A topic that was just made isn't known everywhere, and has no leader, for a moment."""

        def question(within_s: float) -> None:
            topics = self._admin.raw.list_topics(timeout=within_s).topics
            led = {
                name
                for name in names
                if name in topics and all(p.leader >= 0 for p in topics[name].partitions.values())
            }
            if led != names:
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))

        self._admin.ask(
            question, self._patience_s, "waiting for the topics' leaders", ", ".join(sorted(names))
        )

    def names(self, prefix: str) -> set[str]:
        """The topics that begin with `prefix`."""
        return {name for name in self._list().topics if name.startswith(prefix)}

    def delete(self, topics: Sequence[str]) -> None:
        """Removes topics with everything in them."""
        if not topics:
            return
        for name, future in self._admin.raw.delete_topics(
            list(topics), request_timeout=_REQUEST_S
        ).items():
            try:
                future.result(timeout=_REQUEST_S)
            except KafkaException as error:
                raise KafkaFailed(
                    f"the topic can't be removed: {error}", where=f"topic {name}", next=_CHECK
                ) from error

    def partitions(self, topic: str) -> int:
        """How many partitions; KafkaFailed where there is no such topic."""
        found = self._list().topics.get(topic)
        if found is None or found.error is not None:
            raise KafkaFailed(
                "there is no such topic",
                where=f"topic {topic}",
                next="Run `mirrorlog topics create`.",
            )
        return len(found.partitions)

    def end_position(self, topic: str, partition: int) -> int:
        """The position that the next message will have."""
        return self.bounds(topic, partition)[1]

    def first_position(self, topic: str, partition: int) -> int:
        """The oldest position that is kept."""
        return self.bounds(topic, partition)[0]

    def committed_positions(self, group: str, topic: str) -> dict[int, int | None]:
        """By partition, the position that `group` will go on from; None where it never committed one."""
        wanted = [TopicPartition(topic, partition) for partition in range(self.partitions(topic))]
        asker = self._member(group)

        def question(within_s: float) -> Any:
            return asker.raw.committed(wanted, timeout=within_s)

        try:
            found = asker.ask(
                question, self._patience_s, "asking for committed positions", f"group {group}"
            )
        finally:
            asker.raw.close()
        return {each.partition: each.offset if each.offset >= 0 else None for each in found}

    def commit(self, group: str, topic: str, positions: Mapping[int, int]) -> None:
        """Commits positions for a group that has no members; KafkaFailed where it has."""
        wanted = [
            TopicPartition(topic, partition, position) for partition, position in positions.items()
        ]
        client = self._member(group)

        def question(_: float) -> Any:
            return client.raw.commit(offsets=wanted, asynchronous=False)

        try:
            client.ask(question, self._patience_s, "committing positions", f"group {group}")
        finally:
            client.raw.close()

    def close(self) -> None:
        """Lets go of the clients."""
        self._asker.raw.close()

    def identity(self, topic: str) -> str:
        """The topic's own id: another one where it was removed and made anew."""

        def question(within_s: float) -> str:
            wanted = TopicCollection([topic])
            found = self._admin.raw.describe_topics(wanted, request_timeout=within_s)[topic].result(
                within_s + 1
            )
            return str(found.topic_id)

        return str(
            self._admin.ask(
                question, self._patience_s, "asking for the topic's id", f"topic {topic}"
            )
        )

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The oldest position that is kept, and the one that the next message will have."""

        def question(within_s: float) -> tuple[int, int]:
            low, high = self._asker.raw.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=within_s
            )
            return int(low), int(high)

        where = f"topic {topic}, partition {partition}"
        low, high = self._asker.ask(
            question, self._patience_s, "asking where the topic begins and ends", where
        )
        return low, high

    def _list(self) -> Any:
        servers = str(self._settings.get("bootstrap.servers"))
        return self._admin.ask(
            lambda within_s: self._admin.raw.list_topics(timeout=within_s),
            self._patience_s,
            "asking the cluster",
            servers,
        )
