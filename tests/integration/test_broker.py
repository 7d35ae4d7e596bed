"""The embedded Kafka as real processes, and its downloads from a repository on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import stamina
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from deadlines import DEADLINE_S

from mirrorlog.adapters.kafka.client import READ_UNCOMMITTED
from mirrorlog.broker.control import BrokerState, broker_status, stop_broker
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.broker.runtime import Runtime, recorded_class_path, resolve_runtime
from mirrorlog.broker_record import LOOPBACK
from mirrorlog.errors import KafkaFailed, PartFailed
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Return the cache of this machine: the 40 MB are downloaded once."""
    return Settings().cache_dir


@pytest.fixture(scope="session")
def runtime(cache_dir: Path) -> Runtime:
    return prepare_runtime(cache_dir)


@pytest.fixture
def broker(tmp_path: Path, runtime: Runtime) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker", runtime) as started:
        yield started


def client_settings(
    broker: EmbeddedBroker, **more: str | int
) -> dict[str, str | int | float | bool]:
    return {"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, **more}


def publish(broker: EmbeddedBroker, topic: str, values: list[bytes]) -> None:
    """Publish `values`. Return when each is acknowledged."""
    refused: list[object] = []
    producer = Producer(client_settings(broker, acks="all"))
    for value in values:
        producer.produce(
            topic, value, on_delivery=lambda error, _: refused.append(error) if error else None
        )
    assert producer.flush(DEADLINE_S) == 0
    assert refused == []


def read(broker: EmbeddedBroker, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(client_settings(broker, **{"group.id": "test", **READ_UNCOMMITTED}))
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, timeout=DEADLINE_S)]
    finally:
        consumer.close()


def has_ended(pid: int) -> bool:
    """Return whether the process ends within the deadline."""
    try:
        psutil.Process(pid).wait(DEADLINE_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_acknowledged_messages_survive_kill_9(broker: EmbeddedBroker) -> None:
    admin = AdminClient(client_settings(broker))
    topic = NewTopic("kept", 1, 1, config={"flush.messages": "1"})
    admin.create_topics([topic])["kept"].result(DEADLINE_S)
    publish(broker, "kept", [b"1", b"2", b"3"])
    address, first = broker.bootstrap_servers, broker.pid

    os.kill(first, signal.SIGKILL)
    broker.restart()

    assert broker.bootstrap_servers == address
    assert broker.pid != first
    assert read(broker, "kept", 3) == [b"1", b"2", b"3"]


def test_stop_leaves_no_process_and_the_folder_keeps_its_port(
    broker: EmbeddedBroker, runtime: Runtime
) -> None:
    address, pid = broker.bootstrap_servers, broker.pid
    broker.stop()
    assert not psutil.pid_exists(pid)
    assert not broker.is_running
    assert broker_status(broker.folder.path).state is BrokerState.STOPPED
    with EmbeddedBroker(broker.folder.path, runtime) as again:
        assert again.bootstrap_servers == address
        assert broker_status(again.folder.path).pid == again.pid


def test_a_second_broker_on_the_folder_is_refused_and_the_first_runs_on(
    broker: EmbeddedBroker, runtime: Runtime
) -> None:
    with pytest.raises(
        KafkaFailed, match=f"in use by .* process id {broker.pid} at {broker.bootstrap_servers}"
    ):
        EmbeddedBroker(broker.folder.path, runtime).start()
    assert broker_status(broker.folder.path).state is BrokerState.RUNNING


def test_the_error_names_a_port_in_use(tmp_path: Path, runtime: Runtime) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(KafkaFailed, match=f"another program listens on port {port}.*--port"):
            EmbeddedBroker(tmp_path, runtime, port=port).start()
    assert not (tmp_path / "data").exists()


def test_an_end_while_starting_is_reported_with_the_last_lines_of_the_log(
    broker: EmbeddedBroker,
) -> None:
    broker.stop()
    meta = broker.folder.meta_file
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(PartFailed, match=r"exit status 1.*Stored node id 7"):
        broker.start()
    assert not broker.is_running


def test_no_answer_before_the_deadline_leaves_no_process(broker: EmbeddedBroker) -> None:
    broker.stop()
    with pytest.raises(KafkaFailed, match="deadline"):
        broker.start(deadline_s=0.01)
    assert not broker.is_running
    assert has_ended(broker.pid)


PARENT = """
import sys
from pathlib import Path
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.runtime import resolve_runtime
broker = EmbeddedBroker(Path(sys.argv[1]), resolve_runtime(Path(sys.argv[2])))
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""


def test_the_broker_dies_with_a_parent_killed_by_kill_9(
    tmp_path: Path, cache_dir: Path, runtime: Runtime
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(cache_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    try:
        assert has_ended(pid)
    finally:
        stop_broker(tmp_path)


def run_cli(
    state_dir: Path, command: str, *, as_json: bool = True
) -> subprocess.CompletedProcess[str]:
    arguments = [
        sys.executable,
        "-m",
        "mirrorlog",
        *(["--json"] if as_json else []),
        "--state-dir",
        str(state_dir),
        "broker",
        command,
    ]
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_the_command_line_starts_a_broker_that_runs_until_it_is_stopped(
    tmp_path: Path, runtime: Runtime
) -> None:
    def run(command: str) -> subprocess.CompletedProcess[str]:
        return run_cli(tmp_path / "with space, comma", command)

    try:
        started = json.loads(run("start").stdout)
        assert started["state"] == "running"
        again = json.loads(run("start").stdout)
        assert again["pid"] == started["pid"], "a running broker isn't started again"
        status = run("status")
        assert (status.returncode, json.loads(status.stdout)["pid"]) == (0, started["pid"])
    finally:
        stopped = run("stop")
    assert json.loads(stopped.stdout)["state"] == "stopped"
    assert not psutil.pid_exists(started["pid"])
    assert run("status").returncode == 1


def test_stop_says_whether_it_stopped_a_broker(tmp_path: Path, runtime: Runtime) -> None:
    EmbeddedBroker(tmp_path / "broker", runtime, dies_with_parent=False).start()
    ran = [run_cli(tmp_path, "stop", as_json=False) for _ in range(2)]
    assert [(stop.returncode, stop.stdout) for stop in ran] == [
        (0, f"The broker in {tmp_path / 'broker'} is stopped; its data and its port stay.\n"),
        (0, f"No broker runs in {tmp_path / 'broker'}: there is nothing to stop.\n"),
    ]


def test_dies_with_parent_refuses_an_orphan_and_restores_default_signals() -> None:
    command = ["grep", "SigIgn", "/proc/self/status"]
    ran = subprocess.run(dies_with_parent(command), capture_output=True, text=True, check=True)
    assert int(ran.stdout.split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0
    # Its parent isn't process 1. That looks as if the parent had died before step 2.
    orphan = [part if part != str(os.getpid()) else "1" for part in dies_with_parent(command)]
    ran = subprocess.run(orphan, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")


# Downloads


class Repository(http.server.ThreadingHTTPServer):
    """A Maven repository with one jar, `g:a:1`, whose bytes are `content`."""

    content = b"whole"
    requests = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        server: Repository

        def do_GET(self) -> None:
            self.server.requests += 1
            exists = self.path == "/g/a/1/a-1.jar"
            self.send_response(200 if exists else 404)
            self.end_headers()
            self.wfile.write(self.server.content if exists else b"")

        def log_message(self, *_: object) -> None:
            pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    server = Repository((LOOPBACK, 0), Repository.Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    configuration = tmp_path / "jgo.conf"
    configuration.write_text(f"[repositories]\ncentral = http://{LOOPBACK}:{server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    stamina.set_testing(True, attempts=2)
    yield server
    stamina.set_testing(False)
    server.shutdown()
    thread.join()
    server.server_close()


JARS = {"g:a:1": hashlib.sha256(b"whole").hexdigest()}


def test_a_cold_cache_is_filled_once_and_a_damaged_jar_downloaded_again(
    repository: Repository, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (jar,) = resolve_runtime(cache, jars=JARS).class_path
    assert jar.read_bytes() == b"whole"
    requests = repository.requests
    resolve_runtime(cache, jars=JARS)
    assert repository.requests == requests

    jar.write_bytes(b"wh")
    assert resolve_runtime(cache, jars=JARS).class_path == (jar,)
    assert jar.read_bytes() == b"whole"


def test_a_jar_that_is_not_the_pinned_one_is_never_used(
    repository: Repository, tmp_path: Path
) -> None:
    repository.content = b"other"
    with pytest.raises(KafkaFailed, match=r"g:a:1 .*SHA-256.*run the command again"):
        resolve_runtime(tmp_path / "cache", jars=JARS)
    assert recorded_class_path(tmp_path / "cache", JARS) is None


def test_without_a_network_the_error_names_the_next_step(
    repository: Repository, tmp_path: Path
) -> None:
    repository.shutdown()
    repository.server_close()
    with pytest.raises(KafkaFailed, match=r"downloading g:a:1 .*HTTPS_PROXY.*--bootstrap-servers"):
        resolve_runtime(tmp_path / "cache", jars=JARS)
