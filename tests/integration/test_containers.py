"""The main job on a Kafka of testcontainers, and on that of the project's docker-compose.yml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deadlines import DEADLINE_S
from running import Outcome, wait_for_result

from mirrorlog.broker import ports
from mirrorlog.cli.demo.run import Run
from mirrorlog.producers.traces import demo_trace_path
from mirrorlog.settings import load_settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.containers,
    pytest.mark.long,
    pytest.mark.timeout(1500),
]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[Any]:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=DEADLINE_S)
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {str(error)[:120]}")
    yield client
    client.close()


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


@pytest.fixture
def compose(engine: Any) -> Iterator[Any]:
    """Yield a function that runs `docker compose …` in a project of its own, then remove it."""
    project = f"mirrorlog-test-{uuid.uuid4().hex[:8]}"
    environment = {**os.environ, "KAFKA_PORT": str(ports.choose_free())}
    before = everything(engine)

    def run(*arguments: str) -> str:
        command = [
            "docker",
            "compose",
            "--project-directory",
            str(REPOSITORY),
            "--project-name",
            project,
            *arguments,
        ]
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.servers = f"127.0.0.1:{environment['KAFKA_PORT']}"  # type: ignore[attr-defined]
    try:
        yield run
    finally:
        run("--profile", "*", "down", "--volumes", "--timeout", "20")
    assert everything(engine) - before == set()


def everything(engine: Any) -> set[str]:
    """Return the names of all containers, volumes (also anonymous ones) and networks."""
    objects = [*engine.containers.list(all=True), *engine.volumes.list(), *engine.networks.list()]
    return {f"{type(item).__name__} {item.name}" for item in objects}


def test_the_main_job_on_the_projects_compose_file(compose: Any, tmp_path: Path) -> None:
    compose("up", "--build", "--detach", "--wait", "kafka", "node")
    assert_ok(demo(compose.servers, tmp_path))
    inside = compose("run", "--rm", "demo", "demo", "--json")
    assert_ok(json.loads(inside.splitlines()[-1]))
    # The node in the container serves a host and a site outside.
    settings = load_settings(None, {"bootstrap_servers": compose.servers})
    with Run(tmp_path / "run", settings, own_broker=False) as run:
        run.start_broker()  # it has no broker of its own: this creates the topics
        run.start_host(demo_trace_path(), "auto")
        positions = wait_for_result(run)["last_positions"]
        run.start_site("site-a")
        outcome = Outcome(run)
        outcome.wait_consistent("site-a", positions)
        assert outcome.identical("site-a")
    assert sorted(compose("ps", "--services", "--status", "running").split()) == ["kafka", "node"]
