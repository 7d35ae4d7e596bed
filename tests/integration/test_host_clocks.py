"""Hosts whose clocks are hours off, on topics with hosts' times and with the broker's."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError, Producer
from deadlines import DEADLINE_S
from notation import command
from running import run_cli
from writing import make_volumes

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.changed.points import format_time
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.cli.support.lookup import read_topic
from mirrorlog.codec.events import encode

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000


def publish(run: Run, at_ms: int) -> int | None:
    """Publish one message as a host does whose clock shows `at_ms`; return the refusal's code."""
    producer = Producer({"bootstrap.servers": run.settings.bootstrap_servers})
    codes: list[int | None] = []
    producer.produce(
        run.settings.topics.commands,
        b"no command",
        partition=0,
        timestamp=at_ms,
        on_delivery=lambda error, _: codes.append(error.code() if error else None),
    )
    assert producer.flush(DEADLINE_S) == 0
    return codes[0]


@pytest.mark.parametrize("world", [{"partitions": 1, "node_http": "off"}], indirect=True, ids=[""])
def test_changed_since_a_time_names_what_a_host_wrote_whose_clock_is_two_hours_behind(
    world: Run,
) -> None:
    volume = make_volumes(world.settings, {"v": 1 << 20})["v"]
    world.start_node()
    publisher = KafkaPublisher(world.settings.kafka_client())
    asked_us = time.time_ns() // 1000
    for number in range(3):
        made_us = asked_us - 2 * HOUR_MS * 1000 + number
        write = command(
            f"{number * 4096}+4096",
            sequence=number,
            generation=volume.generation,
            first_at_us=made_us,
            last_at_us=made_us,
        )
        publisher.publish(world.settings.topics.commands, 0, b"v", encode(write))
    publisher.flush(DEADLINE_S)
    publisher.close()
    arguments = ["changed", "v", "--since", format_time(asked_us) or "", "--format", "ranges"]
    done = run_cli(world.settings, *arguments, as_json=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0-12287"]


def test_topics_create_lets_existing_topics_hold_the_brokers_time(world: Run) -> None:
    topic, now_ms = world.settings.topics.commands, time.time_ns() // 1_000_000
    admin = KafkaAdmin(world.settings.kafka_client())
    assert admin.set_config([topic], {"message.timestamp.type": "CreateTime"}) == [topic]
    admin.close()
    # What hosts met before: refused for ever, or a time that retention takes for an age. The broker
    # follows its settings after a moment.
    ahead_ms, until = now_ms + 2 * HOUR_MS, time.monotonic() + DEADLINE_S
    while publish(world, ahead_ms) != KafkaError.INVALID_TIMESTAMP:
        assert time.monotonic() < until
    assert publish(world, 1000) is None

    assert create_topics(world.settings).made_broker_time == [topic]
    assert create_topics(world.settings).made_broker_time == []
    while publish(world, ahead_ms) is not None:
        assert time.monotonic() < until
    assert publish(world, 1000) is None
    *_, in_1970, ahead, also_in_1970 = read_topic(world.settings, topic, 0)
    assert (in_1970.by_broker, in_1970.at_us) == (False, 1_000_000)
    assert ahead.by_broker and also_in_1970.by_broker
    assert now_ms * 1000 <= ahead.at_us <= also_in_1970.at_us < ahead_ms * 1000
