"""Outages of the node and of what it depends on, with real processes.

After each outage the log and the tables equal an independent fold of the commands.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import running
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from deadlines import DEADLINE_S
from doomed_node import POINTS
from folding import Event, Proof, changelog_rows, read_all, table_folder, table_rows
from notation import record
from rocksdict import Options, Rdict
from running import Outcome, wait_for_result, wait_for_writes
from suspending import suspend
from writing import StatusTimes, Writer, make_volumes

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher
from mirrorlog.cli.demo.proof import ProgressFollower
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import StatusCode
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.site_progress import Rung, SiteProgress
from mirrorlog.processes.child_processes import stop_all
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.producers.traces import demo_trace_path
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import record_key, watermark_key

pytestmark = pytest.mark.integration

MIB = 1 << 20
TRACE = demo_trace_path()
ONE_PARTITION = {"partitions": 1, "node_http": "off"}


def committed(run: Run, partition: int = 0) -> int:
    """Return the first position that the node's group hasn't committed."""
    return running.committed(run)[partition] or 0


def complete_through(run: Run, partition: int = 0) -> int:
    """Return the position through which the log is complete, as the changelog says."""
    value = changelog_rows(run.settings, partition).get(watermark_key(partition))
    return -1 if value is None else decode(value, Watermark).through


@contextmanager
def doomed_node(run: Run, *arguments: str) -> Iterator[None]:
    """Run a node that kills itself before the block's end."""
    script = Path(__file__).parents[1] / "doomed_node.py"
    environment = {**os.environ, **run.settings.as_environment()}
    command = dies_with_parent([sys.executable, str(script), *arguments])
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
    first, answers = writer.sent, StatusTimes(world.settings)
    with doomed_node(world, point, "0", str(first)):
        answers.wait_for([(0, position) for position in range(first)])
        # The doomed flush holds a refused event, a gap for which the node marks the volume, and
        # plain commands.
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
    # The node's own command marked the volume. A fold of the topic alone doesn't show it.
    assert Proof(world.settings).folded["gappy"].changed.blocks().tolist() == list(
        range(MIB // 4096)
    )
    until = time.monotonic() + DEADLINE_S
    while committed(world) < writer.sent:
        assert time.monotonic() < until


@pytest.mark.parametrize(
    "world",
    [
        ONE_PARTITION
        | {
            "node_backlog_bytes": MIB,
            "node_fetch_bytes": MIB,
            "node_flush_bytes": MIB,
            "kafka": {"client.id": "throttled"},
        }
    ],
    indirect=True,
    ids=[""],
)
def test_a_slow_changelog_slows_the_node_down_and_its_memory_stays_bounded(world: Run) -> None:
    """A quota of the broker makes the node record less than a host writes."""
    volumes = make_volumes(world.settings, {"v": 1 << 30})
    not_throttled = world.settings.model_copy(update={"kafka": {}})
    writer, answers = Writer(not_throttled, volumes), StatusTimes(not_throttled)
    world.start_node()
    world.wait_ready("node")
    writer.send("v", 1)
    writer.flush()
    answers.wait_for(writer.sent_at)
    node = psutil.Process(world.parts["node"].pid)
    before = node.memory_info().rss
    limit_producer(world, "throttled", 30_000)
    try:
        writer.send("v", 3000, extents=1000)
        writer.flush()
        most, slow_until = before, time.monotonic() + 8
        while time.monotonic() < slow_until:
            answers.poll(0.2)
            most = max(most, node.memory_info().rss)
            assert committed(world) <= complete_through(world) + 1
            world.check()
        assert len(answers.arrived_at) < writer.sent
    finally:
        limit_producer(world, "throttled", None)
    answers.wait_for(writer.sent_at)
    most = max(most, node.memory_info().rss)
    size = sum(
        len(event.value or b"")
        for event in read_all(world.settings, world.settings.topics.commands, 0)
    )
    assert size > 45 * MIB
    assert most - before < 30 * MIB, (
        f"{(most - before) / MIB:.0f} MiB more for {size / MIB:.0f} MiB of commands"
    )
    assert list(answers.arrived_at) == sorted(answers.arrived_at)
    Proof(world.settings).all({0: "node"})


def limit_producer(run: Run, client_id: str, byte_rate: float | None) -> None:
    """Set the quota of a client's producers; None removes it. No client library for Python can.

    Kafka protocol: AlterClientQuotas (key 49) version 0, behind a request header of version 1.
    """

    def string(text: str) -> bytes:
        return struct.pack(">h", len(text)) + text.encode()

    entity = struct.pack(">i", 1) + string("client-id") + string(client_id)
    value = struct.pack(">d?", byte_rate or 0.0, byte_rate is None)
    operation = struct.pack(">i", 1) + string("producer_byte_rate") + value
    body = struct.pack(">i", 1) + entity + operation + struct.pack(">?", False)
    request = struct.pack(">hhi", 49, 0, 7) + string("test") + body
    host, _, port = run.settings.bootstrap_servers.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb")
        size = struct.unpack(">i", answer.read(4))[0]
        correlation, _, entries, error = struct.unpack_from(">iiih", answer.read(size))
    assert (correlation, entries, error) == (7, 1, 0)


def set_configs(run: Run, kind: ConfigResource.Type, name: str, configs: Mapping[str, str]) -> None:
    """Set configs of a topic or of a broker."""
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        for key, value in configs.items()
    ]
    admin = AdminClient({"bootstrap.servers": run.settings.bootstrap_servers})
    resource = ConfigResource(kind, name, incremental_configs=entries)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(DEADLINE_S)


@pytest.mark.long
@pytest.mark.own_broker
@pytest.mark.parametrize(("away", "away_s"), [("paused", 12), ("killed", 60)])
def test_all_parts_continue_after_the_broker_was_away(
    away: str, away_s: float, run: Run, record_property: Callable[[str, object], None]
) -> None:
    """The broker is away for longer than a session of the node and its requests last."""
    run.start_node()
    run.start_site("site-a")
    run.wait_ready("node", "site-a")
    started = {name: part.pid for name, part in run.parts.items()}
    run.start_host(TRACE, "auto", "--speed", f"{2.7 / away_s:.3f}")
    wait_for_writes(run, 300)
    broker = run.broker
    assert broker is not None and broker.pid is not None
    progress: list[int] = []
    if away == "paused":
        suspend(broker.pid)
    else:
        broker.kill()
    until = time.monotonic() + away_s
    while time.monotonic() < until:
        progress += [
            m.fields["writes"]
            for m in run.read_messages()
            if m.part == "host" and m.message_type == "progress"
        ]
        for part in run.parts.values():
            part.check()
    if away == "paused":
        psutil.Process(broker.pid).resume()
    else:
        broker.start()
    returned_at = time.monotonic()
    assert progress[-1] > progress[0], "the host didn't go on writing"

    result = wait_for_result(run, away_s + DEADLINE_S)
    outcome = Outcome(run)
    outcome.wait_consistent("site-a", result["last_positions"])
    record_property(
        "host's first and last write while it was away", f"{progress[0]}, {progress[-1]}"
    )
    record_property("from its return until consistent, s", round(time.monotonic() - returned_at, 1))
    assert outcome.identical("site-a")
    assert outcome.reports["demo"].rung is Rung.CHANGED
    assert {name: run.parts[name].pid for name in started} == started
    Proof(run.settings).all({outcome.volumes["demo"].partition: "node"})
    logs = {name: (run.folder / f"{name}.log").read_text("utf-8") for name in started}
    # The libraries of the node log 95 lines a second while the broker is away.
    assert max(len(text.splitlines()) for text in logs.values()) < 60, logs
    if away == "killed":
        assert "can't be reached, trying again: Connect to" in logs["site-a"]
        assert "works again after" in logs["site-a"]


def write_some_log(world: Run, primaries: Path | None = None) -> Writer:
    """Write some of a volume, let the node record it in several flushes, and stop the node."""
    writer = Writer(
        world.settings, make_volumes(world.settings, {"v": 8 * MIB}, primaries), session=None
    )
    answers = StatusTimes(world.settings)
    world.start_node()
    for _ in range(4):
        writer.send("v", 5)
        writer.flush()
        answers.wait_for(writer.sent_at)
    answers.close()
    stop(world)
    return writer


def stop(world: Run) -> None:
    """Stop the node in good order."""
    node = world.parts.pop("node")
    stop_all([node], DEADLINE_S)
    assert node.exit_code == 0, node.log_file.read_text()


def restart_and_prove(world: Run, writer: Writer) -> Proof:
    """Write a little more, start the node, and prove its log and its table."""
    writer.send("v", 5)
    writer.flush()
    world.start_node()
    answers = StatusTimes(world.settings)
    answers.wait_for(writer.sent_at)
    answers.close()
    proof = Proof(world.settings)
    proof.all({0: "node"})
    return proof


def node_output(world: Run) -> str:
    """Return what the node has printed for people."""
    return (world.folder / "node.log").read_text()


one_partition = pytest.mark.parametrize("world", [ONE_PARTITION], indirect=True, ids=[""])


@one_partition
def test_a_deleted_table_is_rebuilt(world: Run) -> None:
    writer = write_some_log(world)
    shutil.rmtree(world.folder / "node")
    restart_and_prove(world, writer)


@pytest.mark.parametrize(
    "world", [ONE_PARTITION | {"node_table_file_s": 3600.0}], indirect=True, ids=[""]
)
def test_a_node_that_stops_in_order_has_all_of_its_table_in_files(world: Run) -> None:
    write_some_log(world)
    rows = table_rows(table_folder(world.settings, "node", 0))
    assert rows == changelog_rows(world.settings, 0)


@one_partition
@pytest.mark.parametrize("position", ["beyond the end", "within"])
def test_a_table_ahead_of_the_changelog_is_not_trusted(position: str, world: Run) -> None:
    """It holds rows that the changelog lost or never had: no site would read them."""
    writer = write_some_log(world)
    changelog = world.settings.topics.changelog
    end = ends_at(world, changelog)
    table = Rdict(str(table_folder(world.settings, "node", 0)), options=Options(raw_mode=True))
    surplus = record("3..7", "1 2 3")
    table[record_key(surplus)] = encode(surplus)
    table[b"__faust\0offset__"] = str(end + 5).encode()
    table.close()
    if position == "within":  # another worker has made the changelog grow meanwhile
        beside = world.settings.model_copy(update={"node_name": "beside"})
        world.start_node("beside")
        answers = StatusTimes(beside)
        while ends_at(world, changelog) <= end + 10:
            writer.send("v", 1)
            writer.flush()
            answers.wait_for(writer.sent_at)
        answers.close()
        stop_all([world.parts.pop("beside")])
    restart_and_prove(world, writer)
    reason = "isn't the one that it took" if position == "within" else "and the changelog ends at"
    assert reason in node_output(world)


@one_partition
def test_a_changelog_that_lost_its_end_is_folded_again(world: Run) -> None:
    """The topic is created again with a part of its records: the node folds the rest again."""
    writer = write_some_log(world)
    kept = recreate_changelog(world, keep_watermarks=2)
    restart_and_prove(world, writer)
    assert "its rows came from another changelog" in node_output(world)
    # How much of the 20 a node has committed when it stops isn't promised.
    told = re.search(rf"ends at position {kept}, before the (\d+) that was", node_output(world))
    assert told is not None
    assert kept + 1 < int(told[1]) <= 20


@one_partition
def test_a_changelog_that_lost_records_whose_commands_are_deleted_begins_another_history(
    world: Run,
) -> None:
    writer = write_some_log(world)
    kept = recreate_changelog(world, keep_watermarks=2)
    client = AdminClient({"bootstrap.servers": world.settings.bootstrap_servers})
    for future in client.delete_records(
        [TopicPartition(world.settings.topics.commands, 0, kept + 3)]
    ).values():
        future.result(DEADLINE_S)
    writer.send("v", 5)
    writer.flush()
    world.start_node()
    answers = StatusTimes(world.settings)
    answers.wait_for(writer.sent_at)
    answers.close()
    assert (
        f"the log ends at position {kept} and the commands are kept from {kept + 3} on"
        in node_output(world)
    )
    value = changelog_rows(world.settings, 0)[watermark_key(0)]
    history = decode(value or b"", Watermark).history
    assert history is not None and history.epoch > 1
    (volume,) = load_volumes(world.settings).values()
    # The worker's table, which was discarded, knew the sessions of all 20 commands before.
    assert (volume.history_id, volume.origin_position) == (history.id, 19)
    assert volume.generation != writer.volumes["v"].generation


def ends_at(world: Run, topic: str) -> int:
    """Return the position that the next message of the topic's partition 0 will have."""
    admin = KafkaAdmin(world.settings.kafka_client())
    try:
        return admin.end_position(topic, 0)
    finally:
        admin.close()


def recreate_changelog(world: Run, keep_watermarks: int) -> int:
    """Delete the changelog and create it again with its first records.

    keep_watermarks: how many watermarks the new one holds; the last of them ends it.
    Return the position through which the log is complete then.
    """
    topic = world.settings.topics.changelog
    kept: list[Event] = []
    through = -1
    for event in read_all(world.settings, topic, 0):
        kept.append(event)
        if event.key == watermark_key(0) and event.value is not None:
            through = decode(event.value, Watermark).through
            keep_watermarks -= 1
            if not keep_watermarks:
                break
    admin = KafkaAdmin(world.settings.kafka_client())
    admin.delete([topic])
    until = time.monotonic() + DEADLINE_S
    while topic in admin.names(topic):
        assert time.monotonic() < until
    admin.create(
        [spec for spec in world.settings.topics.specs(single_copy=True) if spec.name == topic], 1
    )
    admin.close()
    publisher = KafkaPublisher(world.settings.kafka_client())
    for event in kept:
        publisher.publish(topic, 0, event.key or b"", event.value)  # type: ignore[arg-type]
    publisher.flush(DEADLINE_S)
    publisher.close()
    return through


ROLL_UP_AT_ONCE = {
    "node_tiers_s": (1, 2, 4),
    "node_keep_s": {"second": 0, "minute": 0, "hour": 0},
}
CLEAN_AT_ONCE = {
    "segment.ms": "300",
    "max.compaction.lag.ms": "300",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "0",
}


@pytest.mark.parametrize("world", [ONE_PARTITION | ROLL_UP_AT_ONCE], indirect=True, ids=[""])
def test_a_site_copies_only_what_changed_while_its_log_is_compacted(world: Run) -> None:
    admin = AdminClient({"bootstrap.servers": world.settings.bootstrap_servers})
    (broker,) = admin.list_topics(timeout=DEADLINE_S).brokers
    kind, pause = ConfigResource.Type.BROKER, "log.cleaner.backoff.ms"
    set_configs(world, kind, str(broker), {pause: "100"})
    try:
        copy_while_its_log_is_compacted(world)
    finally:
        set_configs(world, kind, str(broker), {pause: "15000"})


def copy_while_its_log_is_compacted(world: Run) -> None:
    changelog = world.settings.topics.changelog
    set_configs(world, ConfigResource.Type.TOPIC, changelog, CLEAN_AT_ONCE)
    writer = Writer(
        world.settings,
        make_volumes(world.settings, {"v": 64 * MIB}, world.folder / "primary"),
        session=None,
    )
    answers, sites = StatusTimes(world.settings), ProgressFollower(world.settings)
    world.start_node()
    site = world.start_site("site-a")

    def write() -> None:
        writer.send("v", 3, extents=5)
        writer.flush()
        answers.wait_for(writer.sent_at)

    write()
    wait_applied(world, sites, "site-a", writer.sent - 1)
    suspend(site.pid)
    cleaned, until = 0, time.monotonic() + DEADLINE_S
    while cleaned < 200:  # records that the site hasn't read
        assert time.monotonic() < until, (
            f"{cleaned} of {ends_at(world, changelog)} records are gone"
        )
        write()
        cleaned = ends_at(world, changelog) - sum(1 for _ in read_all(world.settings, changelog, 0))
    site.signal(signal.SIGCONT)
    world.start_site("late")
    for _ in range(10):
        write()
    proof = Proof(world.settings)
    changed = proof.folded["v"].changed.blocks()
    for name in ("site-a", "late"):
        report = wait_applied(world, sites, name, writer.sent - 1)
        assert report.rung is Rung.CHANGED
        assert report.blocks_copied < 3 * len(changed) < (64 * MIB) // 4096
        primary, secondary = (
            np.fromfile(world.folder / folder / "v.img", "V4096") for folder in ("primary", name)
        )
        assert (primary[changed] == secondary[changed]).all()
    sites.close()
    answers.close()
    proof.all({0: "node"})


def wait_applied(world: Run, sites: ProgressFollower, site: str, position: int) -> SiteProgress:
    """Return the site's report once it has applied the log through `position`."""
    until = time.monotonic() + DEADLINE_S
    while True:
        report = sites.reports.get((site, "v"))
        if report is not None and (report.applied_position or -1) >= position:
            return report
        assert time.monotonic() < until, report
        sites.poll(0.2)
        world.check()


@one_partition
@pytest.mark.parametrize("table", ["kept", "lost"])
def test_commands_replayed_from_the_start_change_nothing(table: str, world: Run) -> None:
    writer = write_some_log(world, world.folder / "primary")
    sites = ProgressFollower(world.settings)
    world.start_site("site-a")
    copied = wait_applied(world, sites, "site-a", writer.sent - 1).blocks_copied
    before = {name: blocks.sets() for name, blocks in Proof(world.settings).folded.items()}
    assert copied == len(before["v"][0])
    if table == "lost":
        shutil.rmtree(world.folder / "node")
    topics = world.settings.topics
    with closing(KafkaAdmin(world.settings.kafka_client())) as admin:
        running.when_the_group_is_empty(
            lambda: admin.commit(topics.node_group, topics.commands, {0: 0})
        )
    assert committed(world) == 0

    one = np.array([4096], np.uint64)
    writer.send_extents("v", ExtentColumns(one * 5, one))
    writer.flush()
    answers = StatusTimes(world.settings)
    world.start_node()
    until = time.monotonic() + DEADLINE_S
    while len(answers.arrived_at) < writer.sent or not all(
        len(times) > 1 for times in list(answers.arrived_at.values())[:-1]
    ):
        answers.poll(0.2)
        assert time.monotonic() < until
    answers.close()
    report = wait_applied(world, sites, "site-a", writer.sent - 1)
    assert report.blocks_copied <= copied + 1
    sites.close()
    Proof(world.settings).all({0: "node"})
