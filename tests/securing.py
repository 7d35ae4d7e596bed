"""A Kafka with TLS, logins and an authorizer that denies whatever no ACL allows."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
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

from mirrorlog.acls import Role, default_principal
from mirrorlog.broker import ports
from mirrorlog.broker.embedded import end_process
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.settings import Settings

USER, PASSWORD = "mirrorlog", "correct-horse:7f"
"""The super user. The brokers and the holders of certificates count as this user, too."""
OTHER_HOST = "mirrorlog-host-west"
ROLE_USERS = [*(default_principal(role).removeprefix("User:") for role in Role), OTHER_HOST]
"""Users without any right, for whom tests make ACLs."""
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
{logins};
listener.name.login.scram-sha-256.sasl.jaas.config={jaas}.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{user};User:ANONYMOUS
listener.name.certificate.ssl.principal.mapping.rules=RULE:^.*$/{user}/
"""


@dataclass(frozen=True)
class Secured:
    """A Kafka with two listeners under TLS: one asks for a login, one for a certificate."""

    login: str
    certificate: str
    folder: Path

    def client(self, method: str, user: str = USER) -> dict[str, str]:
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
        return {**tls, **sasl, "sasl.username": user, "sasl.password": PASSWORD}

    def address(self, method: str) -> str:
        """Return the address of the listener for a login method."""
        return self.certificate if method == "certificate" else self.login

    def admin(self) -> Any:
        """Return Kafka's own client for the super user (AdminClient)."""
        return AdminClient(
            {"bootstrap.servers": self.login, "log_level": 0, **self.client("PLAIN")}
        )

    def topics(self) -> set[str]:
        """Return the topics of mirrorlog."""
        return {
            name
            for name in self.admin().list_topics(timeout=DEADLINE_S).topics
            if name.startswith("mirrorlog")
        }


@contextmanager
def secured_broker(root: Path) -> Iterator[Secured]:
    """Start the broker in a folder under `root`, and stop it."""
    folder = Path(tempfile.mkdtemp(dir=root, prefix="secured-"))
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
            logins=" ".join(f'user_{name}="{PASSWORD}"' for name in (USER, *ROLE_USERS)),
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
