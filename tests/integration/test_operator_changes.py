"""What an operator changes on the cluster while the node is down: group offsets, partitions."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions
from deadlines import DEADLINE_S
from folding import Proof
from writing import StatusTimes, Writer, make_volumes

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.cli.demo.run import Run
from mirrorlog.errors import KafkaFailed, PartFailed
from mirrorlog.processes.child_processes import stop_all

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
    stop_all([node])
    assert node.exit_code == 0, node.log_file.read_text()


def when_the_group_is_empty(change: Callable[[], object]) -> None:
    """Call `change` until Kafka allows it: a stopped worker stays in its group for a while."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        with suppress(KafkaFailed, KafkaException):
            change()
            return
    raise AssertionError("the group isn't empty")


@one_partition
def test_a_node_whose_group_was_deleted_or_moved_ahead_folds_every_command(world: Run) -> None:
    writer = Writer(world.settings, make_volumes(world.settings, {"v": 8 << 20}), session=None)
    group, topic = f"{world.settings.topic_prefix}node", world.settings.topics.commands
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


@one_partition
def test_partitions_that_are_added_to_one_topic_stop_whatever_starts(world: Run) -> None:
    client = AdminClient({"bootstrap.servers": world.settings.bootstrap_servers})
    added = client.create_partitions([NewPartitions(world.settings.topics.commands, 2)])
    for future in added.values():
        future.result(DEADLINE_S)
    world.start_node()
    with pytest.raises(PartFailed, match="must have equally many partitions"):
        world.wait_for(lambda _: False, DEADLINE_S)
    assert world.parts["node"].exit_code == 1
