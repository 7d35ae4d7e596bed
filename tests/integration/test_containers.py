"""The main job on a Kafka of testcontainers, and through the project's docker-compose.yml."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from compose_clients import CommandClient, VolumeClient
from composing import Compose, assert_copied
from deadlines import DEADLINE_S, wait_until
from running import run_cli

from mirrorlog.cli.support.lookup import load_volumes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.containers,
    pytest.mark.long,
    pytest.mark.timeout(1500),
]


@pytest.fixture(autouse=True)
def engine(docker_engine: Any) -> Any:
    return docker_engine


def demo(bootstrap_servers: str, state_dir: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "mirrorlog",
        "--state-dir",
        state_dir,
        "--bootstrap-servers",
        bootstrap_servers,
    ]
    done = subprocess.run(
        [*map(str, command), "demo", "--json"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def assert_ok(result: dict[str, Any]) -> None:
    assert result["ok"]
    assert result["dirty_blocks"] == result["dirty_blocks_counted"]
    assert [site["identical"] for site in result["sites"]] == [True, True]


def test_the_main_job_on_the_kafka_of_testcontainers(tmp_path: Path) -> None:
    from testcontainers.community.kafka import KafkaContainer

    kafka = KafkaContainer("confluentinc/cp-kafka:8.1.0").with_kraft()
    try:
        kafka.start(timeout=int(DEADLINE_S))  # entered as a context, it gets 30 s
        assert_ok(demo(kafka.get_bootstrap_server(), tmp_path))
    finally:
        kafka.stop()


def test_compose_does_the_main_job_also_without_a_worker_and_a_broker(
    compose: Compose, tmp_path: Path
) -> None:
    compose.up()
    settings = compose.settings(tmp_path)
    topics = json.loads(run_cli(settings, "topics", "list").stdout)["topics"]
    assert {topic["copies"] for topic in topics} == {3}
    clients = [VolumeClient(compose, f"vol{number}", seed=number) for number in (1, 2)]
    commands = CommandClient(settings, load_volumes(settings)["vol1"])
    with ExitStack() as stack:
        for client in (*clients, commands):
            stack.enter_context(client.writing())
        for service in ("node-1", "kafka-1"):
            compose.container(service).kill()
            for client in (*clients, commands):
                client.wait_for_more()
    assert commands.losses() == []
    assert compose.started_again() == [], "a broker is lost, and others end"
    contents = {client.volume: client.content for client in clients}
    assert_copied(compose, settings, contents)

    compose.run("up", "--detach", "--wait")  # the two that were killed are back
    assert_ok(json.loads(compose.run("run", "--rm", "demo", "demo", "--json").splitlines()[-1]))
    wait_until(lambda: run_cli(settings, "check").returncode == 0, every_s=1)
    assert_copied(compose, settings, contents)
