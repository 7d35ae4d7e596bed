"""The main job in Confluent's wire format, also when the registry goes away in the middle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from deadlines import DEADLINE_S
from running import Outcome, wait_for_result, wait_for_writes
from schema_registries import FakeRegistry, fake_registry

from mirrorlog.cli.demo.run import Run
from mirrorlog.producers.traces import count_dirty_blocks, demo_trace_path, open_trace

pytestmark = pytest.mark.integration

TRACE = demo_trace_path()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """Serve a registry, and let every setting that is loaded name it."""
    with fake_registry() as served:
        monkeypatch.setenv("MIRRORLOG_SCHEMA_REGISTRY_URL", served.url)
        yield served


def test_sites_end_identical_by_commands_in_confluents_format(
    registry: FakeRegistry, run: Run
) -> None:
    run.start_node()
    run.start_site("site-a")
    run.wait_ready("node", "site-a")
    run.start_host(TRACE, "auto", "--speed", "1")
    wait_for_writes(run, 500)
    registry.status = 503
    run.parts["node"].kill()
    run.parts["node"].start()  # it knows the ids of its start before
    result = wait_for_result(run)
    registry.status = 200  # for the reads of the test itself, which has no folder of ids
    outcome = Outcome(run)
    dirty = sum(count_dirty_blocks(open_trace(TRACE), 4096).values())
    assert outcome.dirty_blocks(result["last_positions"]) == dirty
    outcome.wait_consistent("site-a", result["last_positions"])
    assert outcome.identical("site-a")
    commands = run.settings.topics.commands
    assert f"{commands}-mirrorlog.TrackingCommand" in registry.subjects
    assert raw_value(run, commands)[:1] == b"\0"


def raw_value(run: Run, topic: str) -> bytes:
    """Return the value of some message of a topic as it is in Kafka."""
    settings = {"bootstrap.servers": run.settings.servers.addresses, "group.id": "raw"}
    unmanaged = {"enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    consumer = Consumer(settings | unmanaged)
    try:
        for partition in range(run.settings.partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), DEADLINE_S)
            if end:
                consumer.assign([TopicPartition(topic, partition, end - 1)])
                message = consumer.poll(DEADLINE_S)
                value = None if message is None else message.value()
                assert value is not None
                return value
    finally:
        consumer.close()
    raise AssertionError(f"{topic} is empty")
