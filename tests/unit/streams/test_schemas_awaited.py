"""The node's consumer waits for a schema registry that is away, until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from mirrorlog.errors import KafkaFailed
from mirrorlog.streams.faust_worker.gated_transport import GatedConsumer


class AwayRegistry:
    """A wire format whose ids 1 and 2 nobody knows."""

    asked = 0

    def unknown_ids(self, values: Iterable[bytes]) -> set[int]:
        return {1, 2} if list(values) == [b"command"] else set()

    def learn(self, schema_id: int) -> None:
        self.asked += 1
        raise KafkaFailed(f"the registry is away, and {schema_id} isn't known")


class StoppedConsumer:
    """The consumer's part that waits. It is stopped after three tries; sleeps then end at once."""

    _learn_schema = GatedConsumer._learn_schema
    gate = SimpleNamespace(topic="commands")
    should_stop = False

    def __init__(self) -> None:
        self.sleeps = 0

    async def sleep(self, _: float) -> None:
        assert not self.should_stop, "it would ask again and again, without a pause"
        self.sleeps += 1
        self.should_stop = self.sleeps >= 3


def test_a_consumer_that_is_stopped_asks_the_registry_no_longer() -> None:
    async def scenario() -> None:
        registry: Any = AwayRegistry()
        consumer: Any = StoppedConsumer()
        records = {TP("commands", 0): [SimpleNamespace(values=[b"command"])]}
        await GatedConsumer._learn_schemas(consumer, registry, records)
        assert registry.asked == 3

    asyncio.run(scenario())
