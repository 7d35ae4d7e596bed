"""What may befall the node, with real processes. After each: the log and the tables equal an independent fold."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from doomed_node import POINTS
from folding import DEADLINE_S, Proof, changelog_rows, read_all
from writing import Answers, Writer, make_volumes

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.broker.rehearsal import prepare
from mirrorlog.cli.run import Run
from mirrorlog.codec import decode
from mirrorlog.commands import StatusCode
from mirrorlog.leash import leashed
from mirrorlog.tracking_log import Watermark, watermark_key

pytestmark = pytest.mark.integration

MIB = 1 << 20
ONE_PARTITION = {"partitions": 1, "node_http": "off"}


def committed(run: Run, partition: int = 0) -> int:
    """The first position that the node's group hasn't committed."""
    admin = KafkaAdmin(run.settings.kafka_client())
    try:
        return (
            admin.committed_positions(f"{run.settings.topic_prefix}node", run.settings.topics.commands)[partition] or 0
        )
    finally:
        admin.close()


def complete_through(run: Run, partition: int = 0) -> int:
    """What the changelog says."""
    value = changelog_rows(run.settings, partition).get(watermark_key(partition))
    return -1 if value is None else decode(value, Watermark).through


@contextmanager
def doomed_node(run: Run, *arguments: str) -> Iterator[None]:
    """The node, which is killed by itself before the block's end."""
    script = Path(__file__).parents[1] / "doomed_node.py"
    environment = {**os.environ, **run.settings.as_environment()}
    command = leashed([sys.executable, str(script), *arguments])
    with (run.folder / "doomed.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
        assert process.wait(DEADLINE_S) == -9, (run.folder / "doomed.log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("world", [ONE_PARTITION], indirect=True, ids=[""])
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_point_of_a_flush_loses_nothing(point: str, world: Run) -> None:
    volumes = make_volumes(world.settings, {"u": 8 * MIB, "gappy": MIB, "v": 64 * MIB})
    writer = Writer(world.settings, volumes)
    writer.send("u", 5)
    writer.send("gappy", 1, extents=1)
    writer.flush()
    first, answers = writer.sent, Answers(world.settings)
    with doomed_node(world, point, "0", str(first)):
        answers.wait_for([(0, position) for position in range(first)])
        # In the doomed flush: what is put aside, what makes the node mark a volume, and plain commands.
        writer.send_bytes(0, b"junk")
        writer.send("gappy", 1, extents=1, skip=3)
        for name in ("u", "v", "u"):
            writer.send(name, 5)
        writer.flush()
    assert committed(world) <= complete_through(world) + 1
    assert (committed(world) > first) is (point == "committed")

    writer.send("v", 5)
    writer.close()
    world.start_node()
    answers.wait_for(writer.sent_at)
    answers.close()
    Proof(world.settings).all({0: "node"})
    assert StatusCode.REJECTED in answers.codes[0, first]
    # The node's own command: that it is in the topic doesn't follow from a fold of the topic.
    assert Proof(world.settings).folded["gappy"].changed.all()
    until = time.monotonic() + DEADLINE_S
    while committed(world) < writer.sent:
        assert time.monotonic() < until


@pytest.mark.parametrize(
    "world",
    [ONE_PARTITION | {"node_backlog_bytes": 4 * MIB, "kafka": {"client.id": "throttled"}}],
    indirect=True,
    ids=[""],
)
def test_a_slow_changelog_holds_the_node_back_and_nothing_piles_up(world: Run) -> None:
    """The broker takes so little of the node (a quota) that more is written to it than it can record."""
    volumes = make_volumes(world.settings, {"v": 1 << 30})
    not_throttled = world.settings.model_copy(update={"kafka": {}})
    writer, answers = Writer(not_throttled, volumes), Answers(not_throttled)
    world.start_node()
    world.wait_ready("node")
    writer.send("v", 1)
    writer.flush()
    answers.wait_for(writer.sent_at)
    node = psutil.Process(world.parts["node"].pid)
    before = node.memory_info().rss
    kafka_configs(
        world, "--entity-type", "clients", "--entity-name", "throttled", "--add-config", "producer_byte_rate=15000"
    )
    try:
        writer.send("v", 4000, extents=1000)
        writer.flush()
        most, slow_until = before, time.monotonic() + 8
        while time.monotonic() < slow_until:
            answers.poll(0.2)
            most = max(most, node.memory_info().rss)
            assert committed(world) <= complete_through(world) + 1
            world.check()
        slow_answers = len(answers.came_at)
        assert len(answers.came_at) < writer.sent
    finally:
        kafka_configs(
            world, "--entity-type", "clients", "--entity-name", "throttled", "--delete-config", "producer_byte_rate"
        )
    answers.wait_for(writer.sent_at)
    most = max(most, node.memory_info().rss)
    size = sum(len(event.value or b"") for event in read_all(world.settings, world.settings.topics.commands, 0))
    assert size > 60 * MIB
    assert most - before < 60 * MIB, f"{(most - before) / MIB:.0f} MiB more for {size / MIB:.0f} MiB of commands"
    print(f"{(most - before) / MIB:.0f} MiB more for {size / MIB:.0f} MiB of commands", slow_answers, writer.sent)
    assert list(answers.came_at) == sorted(answers.came_at)
    Proof(world.settings).all({0: "node"})


def kafka_configs(run: Run, *arguments: str) -> None:
    """Kafka's own tool, which can set what no client library can."""
    runtime = prepare(run.settings.cache_dir)
    tool = ("kafka.admin.ConfigCommand", "--bootstrap-server", run.settings.bootstrap_servers, "--alter")
    done = subprocess.run(
        runtime.command(*tool, *arguments), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
