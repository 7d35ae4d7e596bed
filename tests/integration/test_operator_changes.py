"""What an operator changes on the cluster while the node is down: group offsets, partitions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from deadlines import DEADLINE_S
from folding import Proof
from running import when_the_group_is_empty
from writing import StatusTimes, Writer, make_volumes

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.errors import KafkaFailed, PartFailed
from mirrorlog.processes.child_processes import stop_all
from mirrorlog.producers import open_volume

pytestmark = pytest.mark.integration

one_partition = pytest.mark.parametrize(
    "world", [{"partitions": 1, "node_http": "off"}], indirect=True, ids=[""]
)


def write(world: Run, writer: Writer) -> None:
    """Write a little, and wait until the node has recorded it."""
    writer.send("v", 5)
    writer.flush()
    answers = StatusTimes(world.settings)
    answers.wait_for(writer.sent_at)
    answers.close()


def stop_node(world: Run) -> None:
    node = world.parts.pop("node")
    stop_all([node], DEADLINE_S)
    assert node.exit_code == 0, node.log_file.read_text()


@one_partition
def test_a_node_whose_group_was_deleted_or_moved_ahead_folds_every_command(world: Run) -> None:
    writer = Writer(world.settings, make_volumes(world.settings, {"v": 8 << 20}), session=None)
    group, topic = world.settings.topics.node_group, world.settings.topics.commands
    client = AdminClient({"bootstrap.servers": world.settings.bootstrap_servers})
    admin = KafkaAdmin(world.settings.kafka_client())

    def delete_group() -> None:
        for future in client.delete_consumer_groups([group]).values():
            future.result(DEADLINE_S)

    def move(position: int) -> Callable[[], None]:
        return lambda: admin.commit(group, topic, {0: position})

    world.start_node()
    write(world, writer)
    for change in (delete_group, move(1000)):
        stop_node(world)
        when_the_group_is_empty(change)
        writer.send("v", 5)
        writer.flush()  # while the group stands elsewhere
        world.start_node()
        write(world, writer)
        Proof(world.settings).all({0: "node"})
    admin.close()


def add_partitions(world: Run, *topics: str) -> None:
    """Let these topics have two partitions."""
    client = AdminClient({"bootstrap.servers": world.settings.bootstrap_servers})
    added = client.create_partitions([NewPartitions(topic, 2) for topic in topics])
    for future in added.values():
        future.result(DEADLINE_S)


@pytest.mark.parametrize(
    "world",
    [{"partitions": 1, "node_http": "off", "kafka": {"metadata.max.age.ms": "500"}}],
    indirect=True,
    ids=[""],
)
def test_partitions_that_are_added_stop_what_starts_and_what_runs_until_all_topics_have_them(
    world: Run,
) -> None:
    topics = world.settings.topics
    writer = Writer(world.settings, make_volumes(world.settings, {"v": 8 << 20}), session=None)
    world.start_node()
    write(world, writer)
    add_partitions(world, topics.commands)
    for _ in ("the worker that runs", "a worker that starts"):
        with pytest.raises(PartFailed, match="must have equally many partitions"):
            world.wait_for(lambda _: False, DEADLINE_S)
        assert world.parts.pop("node").exit_code == 1
        world.start_node()
    with pytest.raises(KafkaFailed, match="must have equally many partitions"):
        create_topics(world.settings)
    with pytest.raises(KafkaFailed, match="must have equally many partitions"):
        open_volume("v", world.settings)
    add_partitions(world, topics.changelog, topics.status)
    with suppress(PartFailed):  # the last worker may have started before that
        world.wait_for(lambda _: False, 1)
    stop_all([world.parts.pop("node")])
    world.start_node()
    write(world, writer)
    Proof(world.settings).all({0: "node", 1: "node"})
