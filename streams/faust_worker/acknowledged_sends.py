"""Messages sent through Faust's producer and waited for: what a broker that is away delays, what it refuses stops the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import stamina
from aiokafka.errors import KafkaError, KafkaTimeoutError
from faust.exceptions import ProducerSendError

from mirrorlog.errors import ChangelogRefused
from mirrorlog.streams.table.outgoing import Outgoing


class Sends(Protocol):
    """The part of Faust's producer that is used."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: None,
        headers: None,
    ) -> Awaitable[Any]:
        """Queues a message; the awaitable gives its offset, or raises, once the broker has answered."""


def _worth_retrying(error: Exception) -> bool:
    """A broker that is away, electing or slow; a refusal (too large, no right, …) stays a refusal."""
    cause = error.__cause__ if isinstance(error, ProducerSendError) else error
    return isinstance(cause, KafkaTimeoutError) or (
        isinstance(cause, KafkaError) and bool(cause.retriable)
    )


async def send_all(producer: Sends, messages: Sequence[Outgoing], hold_back_s: float) -> list[int]:
    """Sends in order and returns the offsets when every in-sync replica has every message.

    Where an acknowledgement doesn't come the whole set is sent again: a duplicate changes nothing (invariant 3).
    ChangelogRefused where the broker refuses for good, or hasn't answered for `hold_back_s`.
    """
    if not messages:
        return []
    try:
        async for attempt in stamina.retry_context(
            on=_worth_retrying, attempts=None, timeout=hold_back_s, wait_initial=0.1, wait_max=5.0
        ):
            with attempt:
                return await _send_once(producer, messages)
    except (KafkaError, ProducerSendError) as error:
        topics = ", ".join(sorted({message.topic for message in messages}))
        raise ChangelogRefused(
            f"{len(messages)} messages weren't acknowledged: {type(error).__name__} {error}"[:400],
            where=f"topics {topics}",
            next="No source offset was committed. Mend the topic or the broker and start the node again.",
        ) from error
    raise AssertionError("a retry context ends by a return or by an error")


async def _send_once(producer: Sends, messages: Sequence[Outgoing]) -> list[int]:
    sent = [await producer.send(m.topic, m.key, m.value, m.partition, None, None) for m in messages]
    # All are waited for, also where one fails: a retry must not run beside its own first try.
    results = await asyncio.gather(*sent, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result.offset for result in results]  # type: ignore[union-attr]
