"""The main job on a secured Kafka cluster: TLS and logins need only configuration, and a refusal by
the broker is an error at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import stamina
import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from deadlines import DEADLINE_S

from mirrorlog.adapters.kafka import KafkaPublisher, KafkaReader
from mirrorlog.broker import ports
from mirrorlog.broker.embedded import end_process
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.errors import KafkaFailed
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.settings import Settings

pytestmark = pytest.mark.integration

USER, PASSWORD = "mirrorlog", "correct-horse:7f"
SERVER_PROPERTIES = """
process.roles=broker,controller
node.id=1
listeners=LOGIN://127.0.0.1:{login},CERTIFICATE://127.0.0.1:{certificate},\
CONTROLLER://127.0.0.1:{controller}
advertised.listeners=LOGIN://127.0.0.1:{login},CERTIFICATE://127.0.0.1:{certificate}
listener.security.protocol.map=LOGIN:SASL_SSL,CERTIFICATE:SSL,CONTROLLER:PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CERTIFICATE
log.dirs=data
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
ssl.keystore.type=PEM
ssl.keystore.location=server.pem
ssl.truststore.type=PEM
ssl.truststore.location=ca.pem
listener.name.certificate.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.login.plain.sasl.jaas.config={jaas}.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.login.scram-sha-256.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
"""


@dataclass(frozen=True)
class Secured:
    """A Kafka with two listeners under TLS: one asks for a login, one for a certificate."""

    login: str
    certificate: str
    folder: Path

    def client(self, method: str) -> dict[str, str]:
        """Return the client settings of a login method: "certificate", or a SASL mechanism."""
        tls = {"ssl.ca.location": str(self.folder / "ca.pem")}
        if method == "certificate":
            own = str(self.folder / "client.pem")
            return {
                **tls,
                "security.protocol": "SSL",
                "ssl.certificate.location": own,
                "ssl.key.location": own,
            }
        sasl = {"security.protocol": "SASL_SSL", "sasl.mechanism": method}
        return {**tls, **sasl, "sasl.username": USER, "sasl.password": PASSWORD}

    def address(self, method: str) -> str:
        """Return the address of the listener for a login method."""
        return self.certificate if method == "certificate" else self.login

    def topics(self) -> set[str]:
        """Return the topics of mirrorlog."""
        admin = AdminClient(
            {"bootstrap.servers": self.login, "log_level": 0, **self.client("PLAIN")}
        )
        return {
            name
            for name in admin.list_topics(timeout=DEADLINE_S).topics
            if name.startswith("mirrorlog")
        }


@pytest.fixture(scope="module")
def secured(fast_root: Path) -> Iterator[Secured]:
    folder = Path(tempfile.mkdtemp(dir=fast_root, prefix="secured-"))
    write_certificates(folder)
    numbers: list[int] = []
    for _ in range(3):
        numbers.append(ports.choose_free(taken=numbers))
    login, certificate, controller = numbers
    (folder / "server.properties").write_text(
        SERVER_PROPERTIES.format(
            login=login,
            certificate=certificate,
            controller=controller,
            jaas="org.apache.kafka.common.security",
            user=USER,
            password=PASSWORD,
        )
    )
    runtime = prepare_runtime(Settings().cache_dir)
    scram = f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"
    storage = (
        "format",
        "--standalone",
        "--cluster-id",
        "5L6g3nShT-eMCtK--X86sw",
        "--config",
        "server.properties",
    )
    subprocess.run(
        runtime.command("kafka.tools.StorageTool", *storage, "--add-scram", scram),
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    started = Secured(f"127.0.0.1:{login}", f"127.0.0.1:{certificate}", folder)
    with (folder / "output.log").open("wb") as output:
        process = psutil.Popen(
            dies_with_parent(runtime.command("kafka.Kafka", "server.properties")),
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        for attempt in stamina.retry_context(KafkaException, attempts=None, timeout=DEADLINE_S):
            with attempt:
                assert process.is_running(), (folder / "output.log").read_text()
                started.topics()
        yield started
    finally:
        end_process(process, 20)


def write_certificates(folder: Path) -> None:
    """Write ca.pem, and server.pem and client.pem which it signed; other.pem is of another CA."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    for name in ("server", "client"):
        leaf = authority.issue_cert("127.0.0.1")
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        # Kafka reads only PKCS #8.
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem + leaf.cert_chain_pems[0].bytes())


def command_line(servers: str, client: Mapping[str, str], state_dir: Path) -> list[str]:
    options = [part for name, value in client.items() for part in ("-X", f"{name}={value}")]
    program = [sys.executable, "-m", "mirrorlog", "--state-dir", str(state_dir)]
    return [*program, "--bootstrap-servers", servers, *options]


@pytest.mark.parametrize(
    "given", ["PLAIN by options", "SCRAM-SHA-256 by environment", "certificate by file"]
)
def test_the_main_job_on_a_secured_broker(given: str, secured: Secured, tmp_path: Path) -> None:
    method, _, source = given.split()
    servers, client = secured.address(method), secured.client(method)
    environment = dict(os.environ)
    if source == "options":
        command = command_line(servers, client, tmp_path)
    elif source == "environment":
        command = [sys.executable, "-m", "mirrorlog", "--state-dir", str(tmp_path)]
        environment |= {
            "MIRRORLOG_BOOTSTRAP_SERVERS": servers,
            "MIRRORLOG_KAFKA": json.dumps(client),
        }
    else:
        file = tmp_path / "client.properties"
        lines = (
            f"{name}={value}" for name, value in {"bootstrap.servers": servers, **client}.items()
        )
        file.write_text("# a comment\n" + "\n".join(lines))
        command = [sys.executable, "-m", "mirrorlog", "--state-dir", str(tmp_path), "-F", str(file)]
    seen: set[str] = set()
    with subprocess.Popen(
        [*command, "demo", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    seen.add(" ".join(child.cmdline()))
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    result = json.loads(stdout.splitlines()[-1])
    assert result["ok"]
    assert [site["identical"] for site in result["sites"]] == [True, True]
    # The parts get their settings through their environment, which only its owner can read.
    assert all(
        any(part in line for line in seen) for part in (" node", " host replay", " site run site-b")
    )
    assert [line for line in seen if PASSWORD in line or "kafka.Kafka" in line] == []
    assert secured.topics() == set()
    assert [left for left in (tmp_path / "demo").iterdir() if left.is_dir()] == []


# what is wrong | login method | setting changed | command | the error
REFUSALS = """
the password | PLAIN | sasl.password=wrong | demo | Invalid username or password
the password for SCRAM | SCRAM-SHA-256 | sasl.password=wrong | demo | invalid credentials
the authority | PLAIN | ssl.ca.location={folder}/other.pem | demo | certificate verify failed
no certificate | certificate | ssl.certificate.location= | demo | certificate required
an unknown mechanism | PLAIN | sasl.mechanism=SCRAM-SHA-512 | demo | Unsupported SASL mechanism
the node's password | PLAIN | sasl.password=wrong | node | Invalid username or password
"""


@pytest.mark.parametrize(
    "case", REFUSALS.strip().splitlines(), ids=lambda case: case.split("|")[0].strip()
)
def test_a_refusal_is_an_error_at_once_and_leaves_nothing(
    case: str, secured: Secured, tmp_path: Path
) -> None:
    _, method, change, command, expected = (part.strip() for part in case.split("|"))
    name, _, value = change.format(folder=secured.folder).partition("=")
    client = secured.client(method) | {name: value}
    if not value:
        client = {
            name: value
            for name, value in client.items()
            if "certificate" not in name and "key" not in name
        }
    before = secured.topics()
    # If a refusal were taken for a cluster that is away, the demo would try for 30 s, and the node
    # for 300 s.
    done = subprocess.run(
        [
            *command_line(secured.address(method), client, tmp_path),
            command,
            *(["--json"] if command == "demo" else []),
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert expected in done.stderr
    assert "Check security.protocol" in done.stderr
    assert "wrong" not in done.stderr + done.stdout
    if command == "demo":
        error = json.loads(done.stdout.splitlines()[-1])
        assert (error["message_type"], error["code"]) == ("error", "KafkaFailed")
        assert [left for left in (tmp_path / "demo").iterdir() if left.is_dir()] == []
    assert secured.topics() == before


@pytest.mark.parametrize("role", ["reader", "publisher"])
def test_a_client_that_only_polls_raises_the_refusal_too(role: str, secured: Secured) -> None:
    settings = {
        "bootstrap.servers": secured.login,
        **secured.client("PLAIN"),
        "sasl.password": "wrong",
    }
    client: KafkaReader | KafkaPublisher
    if role == "reader":
        client = KafkaReader(settings)
        client.assign("mirrorlog.volumes", {0: 0})
    else:
        client = KafkaPublisher(settings)
        client.publish("mirrorlog.volumes", 0, b"key", b"value")
    until = time.monotonic() + DEADLINE_S
    with pytest.raises(KafkaFailed, match="Invalid username or password"):
        while time.monotonic() < until:
            client.poll(0.1)
    client.close()
