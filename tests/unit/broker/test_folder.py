"""The configuration of the embedded Kafka and the record of its folder, without Kafka."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import psutil
import pytest

from mirrorlog.broker.artifacts import JARS, KAFKA_VERSION
from mirrorlog.broker.embedded import new_cluster_id
from mirrorlog.broker.folder import server_properties, summarize_lines
from mirrorlog.broker.runtime import Runtime
from mirrorlog.broker_record import BrokerRecord, parse_record
from mirrorlog.errors import StateDamaged


def settings_of(properties: str) -> dict[str, str]:
    lines = [line for line in properties.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert len(settings) == len(lines), "a setting is given twice"
    return settings


def test_a_cluster_id_never_looks_like_an_option() -> None:
    ids = {new_cluster_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", cluster_id) for cluster_id in ids)


def test_every_listener_is_on_the_loopback_address() -> None:
    settings = settings_of(server_properties(port=9001, controller_port=9002))
    assert settings["listeners"] == "BROKER://127.0.0.1:9001,CONTROLLER://127.0.0.1:9002"
    assert settings["advertised.listeners"] == "BROKER://127.0.0.1:9001"
    assert settings["controller.quorum.bootstrap.servers"] == "127.0.0.1:9002"


def test_one_node_is_enough_for_every_internal_topic() -> None:
    settings = settings_of(server_properties(port=9001, controller_port=9002))
    copies = {
        name: value
        for name, value in settings.items()
        if name.endswith(("replication.factor", "min.isr"))
    }
    assert len(copies) == 4
    assert set(copies.values()) == {"1"}
    assert settings["auto.create.topics.enable"] == "false"


def test_the_properties_contain_no_absolute_path() -> None:
    """Kafka would interpret a comma or a backslash in a folder's name."""
    assert settings_of(server_properties(port=1, controller_port=2))["log.dirs"] == "data"
    assert "$" not in server_properties(port=1, controller_port=2)


def test_each_jar_has_one_version_and_kafka_the_pinned_one() -> None:
    names = Counter(coordinate.rsplit(":", 1)[0] for coordinate in JARS)
    assert max(names.values()) == 1
    kafka = {coordinate for coordinate in JARS if coordinate.startswith("org.apache.kafka:")}
    assert f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}" in kafka
    assert {coordinate.rsplit(":", 1)[1] for coordinate in kafka} == {KAFKA_VERSION}
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in JARS.values())


def test_the_command_line_of_java() -> None:
    runtime = Runtime(Path("/j/java"), (Path("/c/a.jar"), Path("/c/b.jar")), ("-Xmx1m",))
    assert runtime.command("k.Main", "x") == [
        "/j/java",
        "-Xmx1m",
        "-cp",
        "/c/a.jar:/c/b.jar",
        "k.Main",
        "x",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"port": 1, "controller_port": 2}',
        '{"version": 2, "port": 1, "controller_port": 2}',
        '{"version": 1, "port": 1}',
        '{"version": 1, "port": 70000, "controller_port": 2}',
        '{"version": 1, "port": "1", "controller_port": 2}',
        '{"version": 1, "port": 1, "controller_port": 2, "pid": -5}',
        '{"version": 1, "port": 1, "controller_port": 2, "pid": 5, "created_s": "x"}',
        '{"version": 1, "port": 1, "controller_port": 2, "colour": "red"}',
    ],
)
def test_a_damaged_record_is_an_error_with_a_next_step(text: str) -> None:
    with pytest.raises(StateDamaged, match="Remove that file"):
        parse_record(text, "broker.json")


def test_a_record_may_have_no_process() -> None:
    record = parse_record('{"version": 1, "port": 1, "controller_port": 2}', "broker.json")
    assert record == BrokerRecord(port=1, controller_port=2)
    assert record.process() is None


def test_another_process_with_the_id_of_the_broker_is_not_the_broker() -> None:
    this = psutil.Process()
    assert (
        BrokerRecord(
            port=1, controller_port=2, pid=this.pid, created_s=this.create_time()
        ).process()
        == this
    )
    assert (
        BrokerRecord(
            port=1, controller_port=2, pid=this.pid, created_s=this.create_time() - 60
        ).process()
        is None
    )


def test_a_summary_has_the_problems_without_stack_frames() -> None:
    log = [
        "a INFO starting",
        "b ERROR no",
        "\tat Some.java",
        "\t... 6 more",
        "Caused by: why",
        "c INFO gone",
        "",
    ]
    assert summarize_lines(log) == "b ERROR no | Caused by: why"
    assert summarize_lines(["a INFO starting"]) == "a INFO starting"
    assert summarize_lines([]) == "nothing"
