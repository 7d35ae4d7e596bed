"""The node on a real broker: a changelog that refuses records, and events that are no commands."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from deadlines import DEADLINE_S
from notation import command, flipped
from running import Outcome, committed, run_cli

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.changelog import read_changelog
from mirrorlog.codec.events import decode, encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind, CommandStatus, Quarantined, StatusCode
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import PartFailed
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.topics import QUARANTINE_MAX_BYTES, QUARANTINED_VALUE_MAX_BYTES
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import record_key

pytestmark = pytest.mark.integration

SIZE = 1 << 30
Event = TypeVar("Event")


def make_volume(run: Run, name: str = "v") -> Volume:
    settings = run.settings
    admin, publisher = KafkaAdmin(settings.kafka_client()), KafkaPublisher(settings.kafka_client())
    count = admin.partitions(settings.topics.commands)
    ends = [admin.end_position(settings.topics.commands, partition) for partition in range(count)]
    volume = new_volume(
        name, size_bytes=SIZE, block_size=4096, primary="file:///none", ends=ends, now_us=1
    )
    publish_volume(publisher, settings.topics, volume)
    publisher.flush(DEADLINE_S)
    admin.close()
    return volume


def publish(
    run: Run, volume: Volume, values: list[bytes | None], partition: int | None = None
) -> list[int]:
    """Publish raw events; return their positions."""
    publisher = KafkaPublisher(run.settings.kafka_client(**{"message.max.bytes": 10 << 20}))
    positions: list[int] = []
    for value in values:
        publisher.publish(
            run.settings.topics.commands,
            volume.partition if partition is None else partition,
            b"v",
            value,  # type: ignore[arg-type]
            positions.append,
        )
    publisher.flush(DEADLINE_S)
    publisher.close()
    return positions


def limit_messages(run: Run, topic: str, size_bytes: int) -> None:
    """Set the topic's max.message.bytes."""
    entry = ConfigEntry(
        "max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": run.settings.bootstrap_servers})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(30)


def test_a_changelog_that_refuses_every_record_stops_the_node_with_nothing_committed(
    run: Run,
) -> None:
    volume = make_volume(run)
    limit_messages(run, run.settings.topics.changelog, 40)
    values = [
        encode(command(f"{n * 8192}+4096", sequence=n, generation=volume.generation))
        for n in range(500)
    ]
    positions = publish(run, volume, values)
    run.start_node()
    with pytest.raises(PartFailed) as stopped:
        run.wait_for(lambda _: False, DEADLINE_S)
    assert run.parts["node"].exit_code == 1
    assert "weren't acknowledged" in stopped.value.what
    assert "Mend the topic" in stopped.value.next
    assert set(committed(run).values()) <= {0, None}

    limit_messages(run, run.settings.topics.changelog, 1 << 20)
    run.start_node()
    run.wait_ready("node")
    assert Outcome(run).dirty_blocks({"v": positions[-1]}) == 500
    until = time.monotonic() + DEADLINE_S
    while committed(run)[volume.partition] != positions[-1] + 1:
        assert time.monotonic() < until, committed(run)


GOOD = encode(command("4096+4096"))
OUTSIDE = {
    "behind the end": f"{SIZE}+4096",
    "beyond the end": f"{SIZE - 4096}+8192",
    "negative offset": "2**64-4096+4096",
    "overflowing": "2**64-4096+8192",
    "2^63 bytes": "0+2**63",
    "2^64-1 bytes": "4096+2**64-1",
}
UNDECODABLE = {
    "random bytes": os.urandom(300),
    "a megabyte of random bytes": os.urandom(900_000),
    "more than the quarantine takes, compressible": bytes(3 << 20),
    "no bytes": b"",
    "a tombstone": None,
    "truncated": GOOD[:-3],
    "only a header": GOOD[:10],
    "unknown schema": b"\xc3\x01" + bytes(8) + GOOD[10:],
    "trailing bytes": GOOD + b"\x00",
    "another event": encode(
        Quarantined(partition=0, position=0, reason="", text="", at_us=0, key=None, value=None)
    ),
}


def test_broken_events_are_answered_and_kept_and_the_stream_goes_on(run: Run) -> None:
    volume = make_volume(run)
    run.start_node()
    run.wait_ready("node")
    events = [(value, "UNDECODABLE") for value in UNDECODABLE.values()]
    events += [
        (encode(command(text, generation=volume.generation, sequence=-1)), "OUT_OF_RANGE")
        for text in OUTSIDE.values()
    ]
    events += [(encode(command("0+4096", "nobody")), "UNKNOWN_VOLUME")]
    events += [(encode(command("0+4096", kind=CommandKind.UNKNOWN, sequence=-1)), "UNKNOWN_KIND")]
    good = encode(command("40960+4096", generation=volume.generation, sequence=-1))
    sent = [value for event in events for value in (event[0], good)]
    positions = publish(run, volume, sent)

    statuses = read_statuses_until(run, volume.partition, len(sent))
    assert [status.position for status in statuses] == positions
    assert [status.code for status in statuses[1::2]] == [StatusCode.ACCEPTED] * len(events)
    assert [status.reason for status in statuses[::2]] == [reason for _, reason in events]
    assert all(status.text for status in statuses[::2])

    kept = read_until(run, run.settings.topics.quarantine, 0, Quarantined, len(events))
    assert [(event.value, event.reason, event.position) for event in kept] == [
        (value and value[:QUARANTINED_VALUE_MAX_BYTES], reason, position)
        for (value, reason), position in zip(events, positions[::2], strict=True)
    ]
    assert [event.value_length for event in kept if event.value_length] == [3 << 20]
    # Only what lies inside of "beyond the end", the unknown kind's extent, and the good one.
    assert dirty_set(run, volume, positions[-1]) == BlockSet([0, 10, SIZE // 4096 - 1])


def test_topics_tail_decodes_every_event(run: Run) -> None:
    volume = make_volume(run)
    run.start_node()
    run.wait_ready("node")
    positions = publish(
        run, volume, [b"junk", encode(command("0+4096 z8192+4096", generation=volume.generation))]
    )
    dirty_set(run, volume, positions[-1])
    lines_of = {
        topic: tail(run, topic)
        for topic in ("volumes", "commands", "status", "quarantine", "log", "progress")
    }
    events = {topic: [line["event"] for line in lines] for topic, lines in lines_of.items()}
    assert set(events["volumes"]) == {"Volume"}
    assert events["commands"] == ["undecodable", "TrackingCommand"]
    assert events["status"] == ["CommandStatus", "AcceptedBatch"]
    assert events["quarantine"] == ["Quarantined"]
    assert {"LogRecord", "VolumeHead", "Watermark"} <= set(events["log"])
    assert events["progress"] == []
    assert lines_of["quarantine"][0]["value"] == b"junk".hex()
    (record,) = [line for line in lines_of["log"] if line["event"] == "LogRecord"]
    assert record["changed"] == {"blocks": 2, "first_runs": [[0, 1], [2, 1]]}

    of_volume = [(line["topic"], line["event"]) for line in tail(run, "v")]
    topics = run.settings.topics
    assert of_volume[0] == (topics.volumes, "Volume")
    assert [event for topic, event in of_volume if topic == topics.commands] == [
        "undecodable",
        "TrackingCommand",
    ]
    assert {name for name, _ in of_volume} == {
        *(topics.volumes, topics.commands, topics.status, topics.quarantine, topics.changelog)
    }
    assert (topics.changelog, "Watermark") not in of_volume
    (last,) = tail(run, "commands", "-n", "1")
    assert (last["event"], last["position"]) == ("TrackingCommand", positions[-1])
    since = lines_of["commands"][-1]["published_at"]
    assert [line["position"] for line in tail(run, "commands", "--since", since)][-1:] == [
        positions[-1]
    ]
    assert tail(run, "commands", "--since", "now") == []
    assert [line["position"] for line in tail(run, "commands", "--since", f"@{positions[0]}")] == [
        positions[-1]
    ]
    done = cli(run, "topics", "tail", "nothing")
    assert (done.returncode, "no topic and no volume 'nothing'" in done.stderr) == (2, True)
    done = cli(run, "topics", "list")
    listed = {topic["name"]: topic for topic in json.loads(done.stdout)["topics"]}
    assert {name: topic["exists"] for name, topic in listed.items()} == dict.fromkeys(listed, True)
    assert (listed[topics.commands]["positions"], listed[topics.commands]["copies"]) == (2, 1)


def tail(run: Run, topic: str, *options: str) -> list[dict[str, Any]]:
    done = cli(run, "topics", "tail", topic, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_log_proves_itself_and_a_wrong_record_is_named(run: Run) -> None:
    volume = make_volume(run)
    values = [
        encode(command(f"{n * 8192}+4096", sequence=n, generation=volume.generation))
        for n in range(100)
    ]
    publish(run, volume, values[:1])
    done = cli(run, "log", "rebuild", "--check", "--all")
    assert (done.returncode, json.loads(done.stdout.splitlines()[0])["ok"]) == (3, None)
    run.start_node()
    run.wait_ready("node")
    positions = publish(run, volume, values[1:])
    dirty_set(run, volume, positions[-1])
    done = cli(run, "log", "rebuild", "--check", "--all")
    (compared,) = json.loads(done.stdout.splitlines()[-1])["partitions"]
    assert (done.returncode, compared["first"], compared["through"]) == (0, 0, positions[-1])

    records, _ = read_changelog(run.settings, volume.partition)
    wrong = replace(records[0], changed=flipped(flipped(records[0].changed, 0), 999))
    publisher = KafkaPublisher(run.settings.kafka_client())
    publisher.publish(
        run.settings.topics.changelog, volume.partition, record_key(wrong), encode(wrong)
    )
    publisher.flush(DEADLINE_S)
    publisher.close()
    done = cli(run, "log", "rebuild", "--check", "v")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, lines[-1]["code"]) == (4, "DifferenceFound")
    (difference,) = [line for line in lines if line["message_type"] == "difference"]
    assert (difference["volume"], difference["where"]) == ("v", "changelog")
    assert (difference["missing"], difference["surplus"]) == ("0 (1)", "999 (1)")


def cli(run: Run, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_cli(run.settings, *arguments)


def test_a_command_by_hand_gets_its_status(run: Run) -> None:
    volume = make_volume(run)
    run.start_node()
    run.wait_ready("node")
    raw = "scsi:2a000000001800000800"
    option_lists = [
        ("--write", "4KiB+1", "--zero", "1MiB+8KiB"),
        ("--raw", raw),
        ("--barrier", "noon"),
        ("--mark-dirty", "1GiB+4KiB"),
    ]
    sent = [cli(run, "command", "send", "v", *options) for options in option_lists]
    assert [done.returncode for done in sent] == [0, 0, 0, 2]
    statuses = [json.loads(done.stdout.splitlines()[0]) for done in sent]
    assert [status["code"] for status in statuses] == [
        "ACCEPTED",
        "ACCEPTED",
        "ACCEPTED",
        "REJECTED",
    ]
    assert [status["reason"] for status in statuses] == [None, None, None, "OUT_OF_RANGE"]
    assert dirty_set(run, volume, statuses[-1]["position"]) == BlockSet([1, 3, 256, 257])
    host = encode(command("0+1", session="dead", sequence=0, generation=volume.generation))
    publish(run, volume, [host])
    closed = cli(run, "command", "send", "v", "--close-session", "dead")
    assert closed.returncode == 0
    head = head_of(run, volume, json.loads(closed.stdout.splitlines()[0])["position"])
    assert [(session.session, session.host, session.is_open) for session in head.sessions] == [
        ("dead", "h", False)
    ]
    for options in (
        (),
        ("--barrier", "noon", "--raw", raw),
        ("--raw", "scsi:zz"),
        ("--write", "5"),
    ):
        assert cli(run, "command", "send", "v", *options).returncode == 2
    assert cli(run, "command", "send", "nobody", "--write", "0+1").returncode == 2


def test_a_command_in_the_wrong_partition_is_forwarded_and_recorded(run: Run) -> None:
    volume = make_volume(run)
    run.start_node()
    run.wait_ready("node")
    wrong = (volume.partition + 1) % 4
    publish(run, volume, [encode(command("8192+1", generation=volume.generation))], partition=wrong)
    (status,) = read_statuses_until(run, volume.partition, 1)
    assert (status.code, status.position) == (StatusCode.ACCEPTED, 0)
    assert dirty_set(run, volume, 0) == BlockSet([2])


def read_statuses_until(run: Run, partition: int, count: int) -> list[CommandStatus]:
    """Return the statuses of a partition, by position, once there are `count`."""
    reader = KafkaReader(run.settings.kafka_client())
    reader.assign(run.settings.topics.status, {partition: None})
    statuses: list[CommandStatus] = []
    until = time.monotonic() + DEADLINE_S
    while len(statuses) < count:
        assert time.monotonic() < until, f"{len(statuses)} of {count} statuses"
        for message in reader.poll(0.5):
            statuses += read_statuses(message.value or b"")
        run.check()
    reader.close()
    return sorted(statuses, key=lambda status: status.position)


def read_until(run: Run, topic: str, partition: int, kind: type[Event], count: int) -> list[Event]:
    """Return the first `count` events of a partition."""
    reader = KafkaReader(run.settings.kafka_client())
    reader.assign(topic, {partition: None})
    events: list[Event] = []
    until = time.monotonic() + DEADLINE_S
    while len(events) < count:
        assert time.monotonic() < until, f"{len(events)} of {count} events on {topic}"
        events += [decode(message.value or b"", kind) for message in reader.poll(0.5)]
        run.check()
    reader.close()
    return events


def dirty_set(run: Run, volume: Volume, through: int) -> BlockSet:
    """Return the blocks that the log names, complete through a position."""
    log, mark = read_log(run, volume, through)
    assert log.hole(after=volume.origin_position, through=mark) is None
    return log.changed(after=volume.origin_position, through=mark)


def head_of(run: Run, volume: Volume, through: int) -> VolumeHead:
    """Return the volume's head in a log that is complete through a position."""
    head = read_log(run, volume, through)[0].head
    assert head is not None
    return head


def read_log(run: Run, volume: Volume, through: int) -> tuple[VolumeLog, int]:
    """Return what a site reads of the volume, and through which position: at least `through`."""
    reader, admin = (
        KafkaReader(run.settings.kafka_client()),
        KafkaAdmin(run.settings.kafka_client()),
    )
    log = LogReader(reader, admin, run.settings.topics.changelog)
    until = time.monotonic() + DEADLINE_S
    while (mark := log.watermarks.get(volume.partition)) is None or mark.through < through:
        assert time.monotonic() < until
        log.poll(0.5)
    reader.close()
    admin.close()
    return log.logs[volume.volume], mark.through


def test_quarantine_takes_the_largest_event() -> None:
    largest = encode(
        Quarantined(
            partition=0,
            position=0,
            reason="UNDECODABLE",
            text="x" * 400,
            at_us=0,
            key=b"k" * 1000,
            value=os.urandom(1 << 20),
        )
    )
    assert len(largest) < QUARANTINE_MAX_BYTES
