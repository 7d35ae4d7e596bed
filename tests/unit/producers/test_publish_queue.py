"""Commands that wait in the spool: their regions are released when Kafka has acknowledged them."""

from __future__ import annotations

from uuid import UUID

import notation
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.domain.commands import CommandKind
from mirrorlog.ports.streams import Acknowledged, AppendTime, Publisher
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.spool import Spool
from mirrorlog.producers.publishing.outbox import Outbox, OutboxCallbacks
from mirrorlog.producers.publishing.publish_queue import PublishLimits
from mirrorlog.producers.publishing.session_commands import CommandSource
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_folder import MemoryFolder

TOPICS = Settings().topics
SESSION = str(UUID(int=1))
VOLUME = notation.volume("v", 1 << 20, generation="g", primary="memory://v")


def outbox(
    entries: list[ActivityEntry], publisher: Publisher | None = None, queue_bytes: int = 1
) -> Outbox:
    """Return an outbox whose client has room for one command; it logs into `entries`."""
    broker, clock = MemoryBroker(), ManualClock()
    broker.create(TOPICS.specs(single_copy=True), 1)
    return Outbox(
        CommandSource(TOPICS.commands, "host", SESSION),
        publisher or broker.publisher(),
        Spool(MemoryFolder(), SESSION, limit_bytes=1 << 20),
        clock,
        PublishLimits(queue_bytes=queue_bytes, away_s=2.0),
        OutboxCallbacks(entries.extend, lambda _volume, _error: None, lambda _volumes: None),
        deadline_s=5.0,
    )


@pytest.mark.parametrize("last", ["a command of the volume", "a heartbeat", "a close for all"])
def test_spooled_regions_are_released_whatever_is_spooled_last(last: str) -> None:
    queue = outbox([])
    region = HotRegion("v", 3, unacknowledged=1)
    with queue.lock:
        queue.offer(VOLUME, CommandKind.WRITES)
        queue.offer(VOLUME, CommandKind.WRITES, regions=[region])
        if last == "a command of the volume":
            queue.offer(VOLUME, CommandKind.WRITES)
        elif last == "a heartbeat":
            queue.offer_heartbeat(0, acknowledged_position=None)
        else:
            queue.send_close_for_all(0)
    assert region.unacknowledged == 1
    queue.wait()
    assert region.unacknowledged == 0


def test_a_heartbeat_in_the_spool_is_of_no_volume_in_the_activity_log() -> None:
    entries: list[ActivityEntry] = []
    queue = outbox(entries)
    with queue.lock:
        queue.offer(VOLUME, CommandKind.WRITES)
        queue.offer(VOLUME, CommandKind.WRITES, regions=[HotRegion("v", 3, unacknowledged=1)])
        queue.offer_heartbeat(0, acknowledged_position=None)
        assert queue.save_to_spool()
    assert {entry.volume for entry in entries if entry.op is ActivityOp.SPOOLED} == {"v"}


class HeldPublisher:
    """A publisher whose acknowledgements the test delivers, as two polling threads may do."""

    last_append: AppendTime | None = None

    def __init__(self) -> None:
        self.waiting: list[Acknowledged] = []

    def publish(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        on_acknowledged: Acknowledged | None = None,
    ) -> None:
        assert on_acknowledged is not None
        self.waiting.append(on_acknowledged)

    def poll(self, timeout_s: float) -> None:
        pass

    def flush(self, deadline_s: float) -> None:
        pass

    def close(self) -> None:
        pass


@given(order=st.permutations(range(5)))
def test_acknowledgements_that_overtake_each_other_break_no_history(order: list[int]) -> None:
    publisher = HeldPublisher()
    queue = outbox([], publisher, queue_bytes=1 << 20)
    regions = [HotRegion("v", number, unacknowledged=1) for number in range(5)]
    with queue.lock:
        for region in regions:
            queue.offer(VOLUME, CommandKind.WRITES, regions=[region])
    acknowledged: set[int] = set()
    for number in order:
        publisher.waiting[number](100 + number)
        acknowledged.add(number)
        first_missing = min(set(range(6)) - acknowledged)
        assert queue.positions.last(0) == (99 + first_missing if first_missing else None)
        assert [region.unacknowledged for region in regions] == [
            int(number >= first_missing) for number in range(5)
        ]
    assert queue.positions.broken == {}
    assert queue.is_acknowledged(5)
    assert queue.queued_bytes == 0


@given(order=st.permutations(range(5)), unknown=st.sets(st.integers(0, 4)))
def test_a_command_acknowledged_without_its_position_gets_a_bound_from_the_next_one(
    order: list[int], unknown: set[int]
) -> None:
    """Commands of others are between: command n is at 100 + 2n."""
    publisher = HeldPublisher()
    queue = outbox([], publisher, queue_bytes=1 << 20)
    regions = [HotRegion("v", number, unacknowledged=1) for number in range(5)]
    told: list[int] = []
    with queue.lock:
        for region in regions:
            queue.offer(VOLUME, CommandKind.WRITES, regions=[region], on_position=told.append)
    known = set(range(5)) - unknown
    acknowledged: set[int] = set()
    for number in order:
        publisher.waiting[number](100 + 2 * number if number in known else None)
        acknowledged.add(number)
        first_missing = min(set(range(6)) - acknowledged)
        finished = max((n + 1 for n in known if n < first_missing), default=0)
        assert [region.unacknowledged for region in regions] == [
            int(number >= finished) for number in range(5)
        ]
        assert queue.positions.last(0) == (98 + 2 * finished if finished else None)
        assert queue.is_acknowledged(finished)
        assert not queue.is_acknowledged(finished + 1)
    assert all(bound >= 100 + 2 * number for number, bound in enumerate(told))
    assert sorted(set(told)) == told
    assert queue.positions.broken == {}
