"""Commands that wait in the spool: their regions are released when Kafka has acknowledged them."""

from __future__ import annotations

from uuid import UUID

import notation
import pytest

from mirrorlog.domain.commands import CommandKind
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.durable.activity_format import ActivityEntry, ActivityOp
from mirrorlog.producers.durable.spool import Spool
from mirrorlog.producers.publishing.outbox import CommandSource, Outbox, OutboxCallbacks
from mirrorlog.producers.publishing.publish_queue import PublishLimits
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_folder import MemoryFolder

TOPICS = Settings().topics
SESSION = str(UUID(int=1))
VOLUME = notation.volume("v", 1 << 20, generation="g", primary="memory://v")


def outbox(entries: list[ActivityEntry]) -> Outbox:
    """Return an outbox whose client has room for one command; it logs into `entries`."""
    broker, clock = MemoryBroker(), ManualClock()
    broker.create(TOPICS.specs(single_copy=True), 1)
    return Outbox(
        CommandSource(TOPICS.commands, "host", SESSION),
        broker.publisher(),
        Spool(MemoryFolder(), SESSION, limit_bytes=1 << 20),
        clock,
        PublishLimits(queue_bytes=1, away_s=2.0),
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
