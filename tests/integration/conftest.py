"""Runs of real processes, each in a folder of its own. No test may leave a process behind."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from composing import Compose, compose_of
from deadlines import DEADLINE_S
from memory_folders import HAS_FAILED
from preloaded_processes import Forker, forking, started_forker
from shared_brokers import SharedBroker, delete_topics, one_for_all

from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.cli.demo.run import Run
from mirrorlog.settings import load_settings

TABLE_FILE_S = 0.5
"""What proves a node's table reads its files, beside the node."""


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """Yield what forks processes of mirrorlog from one that has imported it already.

    Nothing is forked any more once a test has left another environment behind, and the suite takes
    far longer. So that is an error.
    """
    with started_forker() as started:
        yield started
        assert started.differing(os.environ) == [], "a test has left these variables changed"


@pytest.fixture(scope="module", autouse=True)
def forked_processes(forker: Forker) -> Iterator[None]:
    """Fork them, but for the tests of other folders that the same worker runs in between."""
    with forking(forker):
        yield


@pytest.fixture(autouse=True)
def nothing_left_running(forked_processes: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process behind, and kill what it left."""
    if "run" in request.fixturenames and not request.node.get_closest_marker("own_broker"):
        request.getfixturevalue("shared_broker")  # it runs on, so it starts before
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    _, alive = psutil.wait_procs(left, timeout=DEADLINE_S)
    names = [
        f"{child.pid} {' '.join(child.cmdline())[:100]}" for child in alive if child.is_running()
    ]
    for child in alive:
        child.kill()
    assert names == []


@pytest.fixture(scope="session")
def shared_broker(
    fast_root: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[SharedBroker]:
    """Yield a broker for tests that use topics of a prefix of their own and leave it running.

    All workers of a run share it.
    """

    @contextmanager
    def start() -> Iterator[str]:
        runtime = prepare_runtime(load_settings(None, {}).cache_dir)
        with EmbeddedBroker(fast_root / "shared-broker", runtime) as broker:
            yield broker.bootstrap_servers

    folder = tmp_path_factory.getbasetemp()
    meeting_place = folder if worker_id == "master" else folder.parent
    with one_for_all(meeting_place / "shared-broker", start) as bootstrap_servers:
        yield SharedBroker(bootstrap_servers)


@contextmanager
def run_on(broker: SharedBroker, folder: Path, more: Mapping[str, object]) -> Iterator[Run]:
    """Yield a run in `folder` on this broker, with topics of its own. more: settings."""
    prefix = f"t{zlib.crc32(str(folder).encode()):08x}."
    given = {
        "state_dir": folder / "state",
        "topic_prefix": prefix,
        "bootstrap_servers": broker.bootstrap_servers,
        "node_table_file_s": TABLE_FILE_S,
        **more,
    }
    try:
        with Run(folder / "run", load_settings(None, given), own_broker=False) as started:
            started.start_broker()
            yield started
    finally:
        delete_topics(broker.bootstrap_servers, prefix)


@pytest.fixture
def world(
    shared_broker: SharedBroker, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Run]:
    """Yield a run on the shared broker, with topics of its own.

    The fixture's parameter, a mapping, holds more settings.
    """
    with run_on(shared_broker, tmp_path, getattr(request, "param", {})) as started:
        yield started


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """Yield a run with its topics created.

    It is on the shared broker, unless the test is marked `own_broker`, because it stops the broker.
    """
    if request.node.get_closest_marker("own_broker"):
        given = {"state_dir": tmp_path / "state", "node_table_file_s": TABLE_FILE_S}
        settings = load_settings(None, given)
        with Run(tmp_path / "run", settings, own_broker=True) as started:
            started.start_broker()
            yield started
        return
    with run_on(request.getfixturevalue("shared_broker"), tmp_path, {}) as started:
        yield started


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Any]:
    """Yield a client of the Docker engine. Skip the test, and say why, where none answers."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=DEADLINE_S)
    except DockerException as error:
        pytest.skip(f"no Docker engine answers: {str(error)[:120]}")
    yield client
    client.close()


@pytest.fixture
def compose(docker_engine: Any, request: pytest.FixtureRequest) -> Iterator[Compose]:
    """Yield the services of docker-compose.yml, none of which runs yet; remove what was started.

    If the test failed, the report has the last lines of each service.
    """
    with compose_of(docker_engine) as services:
        yield services
        if request.node.stash.get(HAS_FAILED, False):
            lines = services.run("--profile", "*", "logs", "--no-color", "--tail", "40")
            request.node.add_report_section("teardown", "services", lines)
