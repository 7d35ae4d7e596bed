"""Messages sent through Faust's producer, and waited for until the broker has acknowledged them.

A broker that is away delays the node. A message that the broker refuses stops it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import stamina
from aiokafka.errors import KafkaError, KafkaTimeoutError
from faust.exceptions import ProducerSendError

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.errors import ChangelogRefused, in_words
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.table.outgoing import Outgoing

log = logging.getLogger("mirrorlog.node")


class Producer(Protocol):
    """The part of Faust's producer that is used."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: None,
        headers: list[tuple[str, bytes]] | None,
    ) -> Awaitable[Any]:
        """Queue a message. The awaitable returns its metadata with its offset, or raises, once the
        broker has answered."""


class SendReports:
    """Logs which topics the node can't write to, and when it can again."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._reports = clock, RetryReports()
        self._failing: dict[object, tuple[float, str]] = {}

    @property
    def held_back(self) -> tuple[float, str | None]:
        """For how long, in seconds, some messages haven't been acknowledged, and why."""
        if not self._failing:
            return 0.0, None
        since_s, reason = min(self._failing.values())
        return self._clock.monotonic_s() - since_s, reason

    @contextmanager
    def sending(self, topics: str) -> Iterator[Callable[[Exception], None]]:
        """Yield what to call when the broker hasn't acknowledged messages that are sent again.

        The messages hold the node back until the context ends, in whatever way.
        """
        call, began_s = object(), self._clock.monotonic_s()

        def failed(error: Exception) -> None:
            reason = in_words(error)[:400]
            self._failing[call] = began_s, f"messages to {topics} aren't acknowledged: {reason}"
            self._failed(topics, reason)

        try:
            yield failed
        finally:
            self._failing.pop(call, None)

    def _failed(self, topics: str, reason: str) -> None:
        if text := self._reports.failed(topics, reason, now_s=self._clock.monotonic_s()):
            log.warning("the node holds back, messages to %s aren't acknowledged: %s", topics, text)

    def worked(self, topics: str) -> None:
        """Note that all messages were acknowledged."""
        if text := self._reports.worked(topics, now_s=self._clock.monotonic_s()):
            log.warning("sending to %s %s", topics, text)


def _is_retriable(error: Exception) -> bool:
    """Return whether the broker is away, electing or slow.

    A refusal (too large, not allowed) can't be retried.
    """
    cause = error.__cause__ if isinstance(error, ProducerSendError) else error
    return isinstance(cause, KafkaTimeoutError) or (
        isinstance(cause, KafkaError) and bool(cause.retriable)
    )


async def send_all(
    producer: Producer, messages: Sequence[Outgoing], patience_s: float, reports: SendReports
) -> list[int]:
    """Send in order; return the offsets once every in-sync replica has every message.

    The whole set is sent again if an acknowledgement is missing: a duplicate changes nothing
    (invariant 3). Raise ChangelogRefused if the broker refuses a message, or if it hasn't
    acknowledged them all within `patience_s`.
    """
    if not messages:
        return []
    topics = ", ".join(sorted({message.topic for message in messages}))

    try:
        with reports.sending(topics) as failed:

            def is_tried_again(error: Exception) -> bool:
                if not _is_retriable(error):
                    return False
                failed(error)
                return True

            async for attempt in stamina.retry_context(
                on=is_tried_again, attempts=None, timeout=patience_s, wait_initial=0.1, wait_max=5.0
            ):
                with attempt:
                    offsets = await _send_once(producer, messages)
                    reports.worked(topics)
                    return offsets
    except (KafkaError, ProducerSendError) as error:
        raise ChangelogRefused(
            f"{len(messages)} messages weren't acknowledged: {in_words(error)}"[:400],
            where=f"topics {topics}",
            next="No source offset was committed. Mend the topic or the broker and start the node "
            "again.",
        ) from error
    raise AssertionError("a retry context ends by a return or by an error")


async def _send_once(producer: Producer, messages: Sequence[Outgoing]) -> list[int]:
    """Send all and return their offsets; raise the first error once every answer is there.

    A broker that gets a batch for the second time may say that it has it, and not where (its offset
    is -1 then). Raise KafkaTimeoutError in that case, so that all is sent again.
    """
    sent = [
        await producer.send(m.topic, m.key, m.value, m.partition, None, list(m.headers) or None)
        for m in messages
    ]
    # Waits for all, even if one fails: a retry must not run beside its own first attempt.
    results = await asyncio.gather(*sent, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    offsets = [result.offset for result in results]  # type: ignore[union-attr]
    if min(offsets) < 0:
        raise KafkaTimeoutError("a message was acknowledged without its offset")
    return offsets
