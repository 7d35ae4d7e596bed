"""Publishes messages to a Kafka cluster: the port mirrorlog.ports.streams.Publisher."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka import Message as KafkaMessage

from mirrorlog.adapters.kafka.client import CHECK_BROKER, ClientSettings, KafkaClient
from mirrorlog.adapters.schema_registry.wire_format import wire_format_of
from mirrorlog.domain.host_keys import SIGNER_KEY, CommandSigner
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.streams import Acknowledged, AppendTime
from mirrorlog.topics import QUARANTINE_MAX_BYTES


class KafkaPublisher:
    """Publisher with acks=all and idempotence. It retries for ever: an outage only delays messages
    (invariant 1)."""

    def __init__(self, settings: ClientSettings) -> None:
        self._refusal: KafkaFailed | None = None
        self._last_acknowledged: KafkaMessage | None = None
        self._servers = str(settings.get("bootstrap.servers"))
        self._wire_format = wire_format_of(settings)
        signer = settings.get(SIGNER_KEY)
        self._signer = signer if isinstance(signer, CommandSigner) else None
        self._client = KafkaClient(
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
        value: bytes | None,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        """Queue one message, which is sent with acks=all. Block while the queue is full.

        If the settings hold a host key, a command carries its code (domain/host_keys.py), which is
        made now: a command of the spool has the code of today's key.
        poll() calls `on_acknowledged` with the message's position. The node fetches commands next
        (streams/faust_worker/app.py, install_agent).
        """

        def on_delivery(error: KafkaError | None, message: KafkaMessage) -> None:
            if error is not None:
                self._refusal = refusal_of(error, topic, partition, key)
                return
            self._last_acknowledged = message
            if self._client.is_away:
                self._client.note_answer()
            if on_acknowledged is not None:
                on_acknowledged(message.offset())

        headers = () if self._signer is None else self._signer.headers(topic, partition, key, value)
        if self._wire_format is not None:
            value = self._wire_format.outgoing(topic, value)
        more = {"headers": headers} if headers else {}
        while True:
            self._raise_refusal()
            try:
                self._client.raw.produce(
                    topic, value, key, partition, on_delivery=on_delivery, **more
                )
                return
            except BufferError:
                self._run_callbacks(self._poll, 0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._FATAL:
                    raise self._fatal_refusal() from error
                raise KafkaFailed(
                    f"Kafka refused a message: {error}", where=f"topic {topic}", next=CHECK_BROKER
                ) from error

    @property
    def last_append(self) -> AppendTime | None:
        """The time of the message acknowledged last, None if there is none."""
        message = self._last_acknowledged
        if message is None:
            return None
        kind, at_ms = message.timestamp()
        if kind == TIMESTAMP_NOT_AVAILABLE:
            return None
        return AppendTime(message.topic() or "", at_ms * 1000, kind == TIMESTAMP_LOG_APPEND_TIME)

    @property
    def is_refused(self) -> bool:
        """Return whether the broker has refused a message for good."""
        return self._refusal is not None

    def poll(self, timeout_s: float) -> None:
        """Run the callbacks that are due."""
        self._run_callbacks(self._poll, timeout_s)
        self._raise_refusal()

    def flush(self, deadline_s: float) -> None:
        """Return when all queued messages are acknowledged. KafkaFailed at the deadline."""
        left = self._run_callbacks(self._flush, deadline_s)
        self._raise_refusal()
        if left:
            raise KafkaFailed(
                f"{left} messages weren't acknowledged within {deadline_s:g} s", next=CHECK_BROKER
            )

    def _run_callbacks(self, call: Callable[[float], int], timeout_s: float) -> int:
        """Return the result of _poll or _flush. KafkaFailed if Kafka refuses the client."""
        try:
            return self._client.run_callbacks(call, timeout_s)
        except KafkaException as error:
            self._refusal = refusal_of_client(error.args[0], self._servers)
            raise self._refusal from error

    def _fatal_refusal(self) -> KafkaFailed:
        """Return why Kafka refuses the client for good. A failed produce() says only that it does.

        The reason is in a callback that wasn't run yet.
        """
        try:
            self._run_callbacks(self._poll, 0)
        except KafkaFailed as refusal:
            return refusal
        self._refusal = refusal_of_client(self._client.fatal_error(), self._servers)
        return self._refusal

    # raw's own methods would stay in the frames of errors, and keep a closed client alive.

    def _poll(self, timeout_s: float) -> int:
        return int(self._client.raw.poll(timeout_s))

    def _flush(self, timeout_s: float) -> int:
        return int(self._client.raw.flush(timeout_s))

    def close(self) -> None:
        """Drop the queued messages and release the client. Messages in flight may be lost.

        A second call does nothing, and poll() finds nothing to do then.
        """
        with suppress(KafkaException, KafkaFailed):
            self._client.raw.purge()
            self._run_callbacks(self._flush, 1.0)
        self._client.release()

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._client.check()


def refusal_of(error: KafkaError, topic: str, partition: int, key: bytes) -> KafkaFailed:
    """Return the error for a message that the broker refused for good."""
    advice = "Mend the topic or the rights, then start again."
    if error.code() == KafkaError.INVALID_TIMESTAMP:
        advice = (
            "The topic takes the times of hosts, and this machine's clock is far from the "
            "broker's. Run `mirrorlog topics create`, which makes the topic take the broker's "
            "time, and set the clock; then start again."
        )
    if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        advice = "Give its principal the right to write (`mirrorlog acl`), then start again."
    return KafkaFailed(
        f"Kafka refused a message: {error.str()}",
        where=f"topic {topic}, partition {partition}, key {key[:60].decode('utf-8', 'replace')}",
        next=f"{advice} No refused message counts as published.",
    )


def refusal_of_client(error: KafkaError, servers: str) -> KafkaFailed:
    """Return the error for a client that can't publish anything: it has no right to write.

    Kafka refuses a producer with idempotence that may write to no topic at all.
    """
    return KafkaFailed(
        f"Kafka refused this publisher: {error.str()}",
        where=f"Kafka at {servers}",
        next="Give its principal the rights of its role (`mirrorlog acl`), then start again. No "
        "refused message counts as published.",
    )
