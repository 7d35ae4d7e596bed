"""The main job on a secured Kafka cluster: TLS and logins need only configuration, and a refusal by
the broker is an error at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import psutil
import pytest
from command_line import run_main
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from deadlines import DEADLINE_S, wait_until
from securing import OTHER_HOST, PASSWORD, USER, Secured, secured_broker
from writing import make_volumes

from mirrorlog.acls import Role, default_principal
from mirrorlog.adapters.kafka import KafkaPublisher, KafkaReader
from mirrorlog.changed.ask import query_ports
from mirrorlog.cli.support.create_topics import create_topics
from mirrorlog.cli.support.lookup import find_volume, read_topic
from mirrorlog.codec.events import decode, encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.consumers import run_site
from mirrorlog.consumers.backup.sources.registration import Registrar
from mirrorlog.consumers.backup.sources.source_point import BackupPosition, choose_blocks
from mirrorlog.consumers.backup.sources.wiring import open_primary_source, open_registrar
from mirrorlog.domain.commands import CommandKind, RejectReason, StatusCode, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.host_keys import HostKey
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import BadInput, BadUse, KafkaFailed
from mirrorlog.producers import TrackedVolume
from mirrorlog.settings import Settings, load_settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def secured(fast_root: Path) -> Iterator[Secured]:
    with secured_broker(fast_root) as started:
        yield started


def command_line(servers: str, client: Mapping[str, str], state_dir: Path) -> list[str]:
    """Return the beginning of a command with client settings. The password is in a file."""
    given = dict(client)
    if password := given.pop("sasl.password", ""):
        file = state_dir / "password"
        file.write_text(password + "\n")
        given["sasl.password_file"] = str(file)
    options = [part for name, value in given.items() for part in ("-X", f"{name}={value}")]
    program = [sys.executable, "-m", "mirrorlog", "--state-dir", str(state_dir)]
    return [*program, "--bootstrap-servers", servers, *options]


@pytest.mark.parametrize(
    "given", ["PLAIN by options", "SCRAM-SHA-256 by environment", "certificate by file"]
)
def test_the_main_job_on_a_secured_broker(given: str, secured: Secured, tmp_path: Path) -> None:
    method, _, source = given.split()
    servers, client = secured.address(method), secured.client(method)
    environment = dict(os.environ) | {"IS_STARTED": "and not forked, so its command line is seen"}
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


class Roles:
    """Every role on the secured broker, each as a user of its own, with topics of their own."""

    def __init__(
        self, secured: Secured, folder: Path, prefix: str = "roles.", **more: object
    ) -> None:
        """Create it. more: further settings of all roles."""
        self._secured, self.folder, self._prefix, self._more = secured, folder, prefix, more

    def settings(
        self, role: Role | None, *, user: str | None = None, key: HostKey | None = None
    ) -> Settings:
        """Return the settings of a role. None: of the super user. user: instead of the role's."""
        if user is None:
            user = USER if role is None else default_principal(role).removeprefix("User:")
        given = {
            "bootstrap_servers": self._secured.login,
            "kafka": self._secured.client("PLAIN", user),
            "topic_prefix": self._prefix,
            "partitions": 1,
            "state_dir": self.folder / "state",
            "node_name": "worker",
            "node_http": "off",
            "patience_s": 2.0,
            **({} if key is None else {"host_key": key.as_text()}),
            **self._more,
        }
        return load_settings(None, given)

    def command(self, role: Role | None, *arguments: str, key: HostKey | None = None) -> str:
        """Run a command of mirrorlog as this role in this process. Return its stdout."""
        with mock.patch.dict(os.environ, self.settings(role, key=key).as_environment()):
            code, out, err = run_main([*arguments, "--json"])
        assert code == 0, err
        return out

    def refused(self, role: Role, *arguments: str) -> str:
        """Run a command of mirrorlog that fails. Return what it says."""
        with mock.patch.dict(os.environ, self.settings(role).as_environment()):
            code, _, err = run_main([*arguments])
        assert code == 1, err
        return err

    def rights(self, role: Role) -> list[str]:
        """Return the results of the check of rights, as a role asks for what it needs itself."""
        with mock.patch.dict(os.environ, self.settings(role).as_environment()):
            _, out, err = run_main(["doctor", "--role", role, "--json"])
        checks = [check for check in json.loads(out)["checks"] if check["name"] == "rights"]
        assert all(check["result"] in ("ok", "failed") for check in checks), err
        return [f"{check['result']} {check['where'] or ''}".strip() for check in checks]

    def write(self, data: bytes) -> None:
        """Write to the volume as a host, from its beginning on."""
        with TrackedVolume.open("vol", self.settings(Role.HOST)) as volume:
            volume.pwrite(data, 0)

    def registrar(self) -> AbstractContextManager[Registrar]:
        """Return what registers a repository of backups, once entered."""
        repository = "55555555-5555-4555-8555-555555555555"
        return open_registrar(self.settings(Role.BACKUP), repository, "/backups")

    def back_up(self, base: BackupPosition | None) -> tuple[BackupPosition, Rung]:
        """Take a point of the primary, and register it. Return its position and its rung."""
        settings = self.settings(Role.BACKUP)
        with query_ports(settings, DEADLINE_S) as query, self.registrar() as registrar:
            query.catalog.refresh()
            known = registrar.registered().get("vol")
            assert (known is None) == (base is None)
            staging = self.folder / "staging"
            with (
                open_primary_source(
                    settings, query.catalog["vol"], query, staging=staging, wait_s=DEADLINE_S
                ) as source,
                source.point(base) as point,
            ):
                begun = registrar.begin(known, base, point)
                chosen = choose_blocks(point, has_base=base is not None)
                registrar.finished(begun, point, chosen, name="p", written_at_us=1)
        return point.position, chosen.rung

    def deny_write(self, role: Role, topic: str) -> None:
        """Take from the role its right to write to a topic."""
        wanted = AclBindingFilter(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            default_principal(role),
            None,
            AclOperation.WRITE,
            AclPermissionType.ALLOW,
        )
        admin = self._secured.admin()  # it must live until the answer is there
        deleted = admin.delete_acls([wanted])
        assert [len(future.result(DEADLINE_S)) for future in deleted.values()] == [1]

    @contextmanager
    def node(self) -> Iterator[subprocess.Popen[str]]:
        """Run a worker of the node. At the end of the context it is stopped."""
        environment = {**os.environ, **self.settings(Role.NODE).as_environment()}
        command = [sys.executable, "-m", "mirrorlog", "node"]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    @contextmanager
    def site(self, name: str) -> Iterator[Callable[[], BaseException | None]]:
        """Run a site in a thread. Yield a function that waits for its end and returns its error."""
        stop, errors = threading.Event(), []

        def run() -> None:
            try:
                settings = self.settings(Role.SITE)
                run_site(name, self.folder / name, settings, stopped=stop.is_set)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                errors.append(error)

        thread = threading.Thread(target=run)

        def wait_for_end() -> BaseException | None:
            thread.join(DEADLINE_S)
            return errors[0] if errors else None

        thread.start()
        try:
            yield wait_for_end
        finally:
            stop.set()
            thread.join(DEADLINE_S)


def test_each_role_needs_the_rights_that_the_list_gives_it(
    secured: Secured, tmp_path: Path
) -> None:
    roles = Roles(secured, tmp_path)
    topics = roles.settings(None).topics
    created = json.loads(roles.command(None, "acl", "--apply", "--yes"))
    again = json.loads(roles.command(None, "acl", "--apply", "--dry-run"))
    assert (again["acls"], again["already_there"]) == ([], len(created["acls"]))
    create_topics(roles.settings(Role.ADMIN))
    create_topics(roles.settings(Role.ADMIN))  # compares the settings of topics that exist
    make_volumes(roles.settings(Role.ADMIN), {"vol": 1 << 20}, tmp_path / "primary")
    data = os.urandom(100_000)
    with roles.site("berlin") as end_of_site:
        with roles.node() as node:
            roles.write(data)
            publish_gap(roles.settings(Role.HOST))  # the node then publishes a command of its own
            roles.command(Role.READER, "site", "wait", "vol")
            copied = (tmp_path / "berlin" / "vol.img").read_bytes()
            assert copied == (tmp_path / "primary" / "vol.img").read_bytes()
            overview = json.loads(roles.command(Role.DASHBOARD, "status"))
            assert [row["state"] for row in overview["volumes"]] == ["CONSISTENT"]
            assert len(overview["hosts"]) == len(overview["nodes"]) == 1
            blocks = json.loads(roles.command(Role.AUDITOR, "changed", "vol", "--format", "json"))
            assert sum(run["length"] for run in blocks) >= len(data)
            *rows, _ = roles.command(Role.AUDITOR, "audit", "vol", "--kind", "write").splitlines()
            statuses = {json.loads(row)["status"] for row in rows}
            assert statuses == {"ACCEPTED", "SEQUENCE_GAP"}
            assert [roles.rights(role) for role in Role] == [["ok"]] * len(Role)
            archive = str(tmp_path / "archive")
            printed = roles.command(
                Role.ARCHIVE, "archive", "run", "--once", "--keep", "0s", "--to", archive
            )
            assert '"deleted"' in printed
            base, _ = roles.back_up(None)
            roles.write(data)
            base, rung = roles.back_up(base)
            assert rung is Rung.CHANGED
            (backup,) = json.loads(roles.command(Role.READER, "status"))["backups"]
            assert backup["position"] == base.position
            roles.deny_write(Role.NODE, topics.changelog)
            roles.write(data)
            _, printed = node.communicate(timeout=DEADLINE_S)
        assert node.returncode == 1
        assert f"topic authorization failed error: {topics.changelog}" in printed
        roles.deny_write(Role.SITE, topics.progress)
        failed = end_of_site()
    assert isinstance(failed, KafkaFailed)
    assert "authorization failed" in failed.what
    assert topics.progress in failed.where
    roles.deny_write(Role.BACKUP, topics.progress)
    with pytest.raises(KafkaFailed, match="authorization failed"), roles.registrar() as registrar:
        registrar.end("vol")
    roles.deny_write(Role.HOST, topics.commands)
    assert roles.rights(Role.HOST) == [f"failed topic {topics.commands}"]
    with pytest.raises(KafkaFailed, match="authorization failed") as refused:
        roles.write(data)
    assert topics.commands in refused.value.where
    roles.deny_write(Role.ADMIN, topics.volumes)
    said = roles.refused(Role.ADMIN, "volume", "create", "new", "--size", "1MiB")
    assert "authorization failed" in said
    assert topics.volumes in said
    said = roles.refused(Role.READER, "command", "send", "vol", "--write", "0+4KiB")
    assert "Cluster authorization failed" in said  # a producer that may write to no topic
    assert "mirrorlog acl" in said


def publish_gap(settings: Settings) -> None:
    """Publish the third command of a session whose first two never arrive, and its close."""
    volume = find_volume(settings, "vol")
    write = TrackingCommand(
        volume="vol",
        generation=volume.generation,
        host="lossy",
        session=settings.new_session(),
        sequence=2,
        kind=CommandKind.WRITES,
        extents=ExtentColumns.of([Extent(0, 4096)]),
        first_at_us=1,
        last_at_us=1,
    )
    close = replace(write, kind=CommandKind.SESSION_CLOSE, sequence=3, extents=ExtentColumns.of([]))
    with closing(KafkaPublisher(settings.kafka_client())) as publisher:
        for command in (write, close):
            publisher.publish(settings.topics.commands, volume.partition, b"vol", encode(command))
        publisher.flush(DEADLINE_S)


# role | topics that it may read | that it may write to | that it may do more with
MAY = """
host      | volumes commands log status progress digests | commands reports digests |
node      | volumes commands log progress | commands log status quarantine volumes reports |
site      | volumes log progress digests | progress digests |
archive   | volumes commands log | reports | commands
backup    | volumes log commands progress | progress |
auditor   | volumes commands log status quarantine | |
dashboard | volumes commands log status progress reports quarantine verifications | |
reader    | all | | all
admin     | all | volumes commands progress digests verifications | all
"""
TOPICS = [
    "volumes",
    "commands",
    "status",
    "quarantine",
    "log",
    "progress",
    "reports",
    "digests",
    "verifications",
]
NOTHING: dict[str, set[str]] = {name: set() for name in TOPICS}


def test_a_role_may_do_nothing_else_and_hosts_of_another_prefix_nothing_at_all(
    secured: Secured, tmp_path: Path
) -> None:
    """The broker says what it would allow; what matters most is tried, too."""
    east, west = (Roles(secured, tmp_path / name, f"{name}.") for name in ("east", "west"))
    for roles in (east, west):
        create_topics(roles.settings(None))
    east.command(None, "acl", "--apply", "--yes")
    west.command(
        None, "acl", "--apply", "--yes", "--role", "host", "--principal", f"User:{OTHER_HOST}"
    )
    rows = [[part.strip() for part in line.split("|")] for line in MAY.strip().splitlines()]
    assert {role for role, *_ in rows} == set(Role)
    for role, read, written, more in rows:
        of_role = allowed(secured, default_principal(Role(role)), "east.")
        for operation, names in (("READ", read), ("WRITE", written)):
            expected = set(TOPICS if names == "all" else names.split())
            assert {name for name in TOPICS if operation in of_role[name]} == expected, role
        further = {"DESCRIBE", "READ", "WRITE"}
        expected = set(TOPICS if more == "all" else more.split())
        assert {name for name in TOPICS if of_role[name] - further} == expected, role
        assert allowed(secured, default_principal(Role(role)), "west.") == NOTHING, role
    assert allowed(secured, f"User:{OTHER_HOST}", "east.") == NOTHING
    for user, topic in (
        ("mirrorlog-site", "east.commands"),
        ("mirrorlog-host", "west.commands"),
        (OTHER_HOST, "east.commands"),
        ("mirrorlog-host", "east.log"),
        ("mirrorlog-node", "east.progress"),
        ("mirrorlog-dashboard", "east.progress"),
    ):
        with pytest.raises(KafkaFailed, match="authorization failed"):
            publish(secured, user, topic)
    publish(secured, OTHER_HOST, "west.commands")


def allowed(secured: Secured, principal: str, prefix: str) -> dict[str, set[str]]:
    """Return by topic, without the prefix, the operations that the broker allows the principal."""
    user = principal.removeprefix("User:")
    client = {"bootstrap.servers": secured.login, **secured.client("PLAIN", user), "log_level": 0}
    admin = AdminClient(client)
    asked = admin.describe_topics(
        TopicCollection([f"{prefix}{name}" for name in TOPICS]), include_authorized_operations=True
    )
    operations: dict[str, set[str]] = {}
    for topic, future in asked.items():
        try:
            described = future.result(DEADLINE_S).authorized_operations
        except KafkaException as error:
            assert "authorization failed" in str(error)
            described = []
        operations[topic.removeprefix(prefix)] = {operation.name for operation in described}
    return operations


def publish(secured: Secured, user: str, topic: str) -> None:
    """Publish a message as a user, and wait for its acknowledgement."""
    publisher = KafkaPublisher(
        {"bootstrap.servers": secured.login, **secured.client("PLAIN", user)}
    )
    try:
        publisher.publish(topic, 0, b"key", b"value")
        publisher.flush(DEADLINE_S)
    finally:
        publisher.close()


EAST, WEST, OPERATOR = (HostKey(f"{name}/1", os.urandom(32)) for name in ("east", "west", "op"))
MISTYPED = HostKey(EAST.id, bytes([*EAST.secret[1:], EAST.secret[0] ^ 1]))


class Keys:
    """The node's file of keys: "db" is east's, and "web" is west's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(EAST, WEST)

    def write(self, *keys: HostKey) -> None:
        """Let these keys count, and the operator's."""
        volumes = {"east": ["db"], "west": ["web"], "op": ["*"]}
        known = (*keys, OPERATOR)
        tables = [
            f"[hosts.{name}]\nvolumes = {json.dumps(patterns)}\n"
            f"keys = {json.dumps([key.as_text() for key in known if key.holder == name])}"
            for name, patterns in volumes.items()
        ]
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(tables))
        new.replace(self.path)


def test_a_host_can_not_touch_the_volume_of_another_host_of_its_prefix(
    secured: Secured, tmp_path: Path
) -> None:
    keys = Keys(tmp_path / "keys.toml")
    roles = Roles(secured, tmp_path, "keys.", node_host_keys_file=str(keys.path))
    east = roles.settings(Role.HOST, key=EAST)
    west = roles.settings(Role.HOST, user=OTHER_HOST, key=WEST)
    roles.command(None, "acl", "--apply", "--yes")
    other = ("--role", "host", "--principal", f"User:{OTHER_HOST}")
    roles.command(None, "acl", "--apply", "--yes", *other)
    create_topics(roles.settings(Role.ADMIN))
    make_volumes(roles.settings(Role.ADMIN), {"db": 1 << 20, "web": 1 << 20}, tmp_path / "primary")
    primary, secondary = (tmp_path / part / "db.img" for part in ("primary", "berlin"))
    with roles.site("berlin"), roles.node():
        for name in ("db", "web"):
            roles.command(Role.ADMIN, "volume", "authenticate", name, key=OPERATOR)
        described = find_volume(east, "db")
        with TrackedVolume.open("db", east) as volume:
            volume.pwrite(os.urandom(200_000), 0)
            volume.flush()
            sent = attempts(west, roles)
            with TrackedVolume.open("web", west) as web:  # what it may do
                web.pwrite(b"w", 0)
            volume.pwrite(os.urandom(4096), 500_000)
            volume.flush()
        roles.command(Role.READER, "site", "wait", "db")
        assert secondary.read_bytes() == primary.read_bytes()
        assert find_volume(east, "db") == described
        statuses = wait_for_statuses(roles, sent)
        refused = (StatusCode.REJECTED, RejectReason.NOT_AUTHENTIC)
        assert {name: statuses[at] for name, at in sent.items()} == dict.fromkeys(sent, refused)
        # Neither opens it with another's key, none, or a wrong one; that is said before any write.
        for settings, expected in (
            (west, "west of the command's host key may not touch volume db"),
            (roles.settings(Role.HOST, key=MISTYPED), "the sender has another secret"),
        ):
            with pytest.raises(BadInput, match=expected):
                TrackedVolume.open("db", settings, host="stranger")
        with pytest.raises(BadUse, match="this host has no key"):
            TrackedVolume.open("db", roles.settings(Role.HOST), host="stranger")
        # A key that is taken from a host while it writes stops it, and loses no block.
        stopped = TrackedVolume.open("db", east)
        keys.write(WEST)
        with pytest.raises(BadInput, match="NOT_AUTHENTIC"):
            stopped.pwrite(os.urandom(4096), 700_000)
            stopped.close()
        wait_until(lambda: secondary.read_bytes() == primary.read_bytes())
        # Its session stays open, so nothing is proved of the copy.
        wait_until(lambda: state_of_db(roles) == "SETTLING", every_s=0.5)
        keys.write(EAST, WEST)
        with TrackedVolume.open("db", east) as volume:
            volume.pwrite(os.urandom(4096), 900_000)
        roles.command(Role.READER, "site", "wait", "db")
        assert secondary.read_bytes() == primary.read_bytes()


def state_of_db(roles: Roles) -> str:
    """Return the state of the one secondary of volume "db"."""
    (row,) = json.loads(roles.command(Role.DASHBOARD, "status", "db"))["volumes"]
    return str(row["state"])


def attempts(west: Settings, roles: Roles) -> dict[str, int]:
    """Send commands of west's host about the volume "db". Return their positions, by name."""
    topic = west.topics.commands
    events = [
        decode(message.value or b"", TrackingCommand) for message in read_topic(west, topic, 0)
    ]
    theirs = next(event for event in events if event.volume == "db" and event.sequence >= 0)
    zeros = ExtentColumns.of([Extent(0, 200_704, ExtentKind.ZERO)])
    nothing, volume = ExtentColumns.of([]), find_volume(west, "db")
    kinds: dict[str, dict[str, object]] = {
        "opening": {"kind": CommandKind.SESSION_OPEN, "session": west.new_session()},
        "zeros": {"kind": CommandKind.WRITES, "extents": zeros, "sequence": 1000},
        "heartbeat": {"kind": CommandKind.HEARTBEAT, "sequence": 1001},
        "heartbeat for all": {"kind": CommandKind.HEARTBEAT, "volume": "", "generation": ""},
        "close": {"kind": CommandKind.SESSION_CLOSE, "sequence": -1},
        "close for all": {"kind": CommandKind.SESSION_CLOSE, "volume": "", "sequence": -1},
        "resize": {"kind": CommandKind.RESIZE, "size_bytes": 1 << 21, "sequence": -1},
        "end": {"kind": CommandKind.RETIRE, "sequence": -1},
        "renewal": {
            "kind": CommandKind.NEW_GENERATION,
            "new_generation": "11111111-1111-4111-8111-111111111111",
            "sequence": -1,
        },
        "barrier": {"kind": CommandKind.BARRIER, "note": "x", "sequence": -1},
        "dirty": {"kind": CommandKind.MARK_DIRTY, "extents": zeros, "sequence": -1},
    }
    made = {
        name: encode(
            replace(
                theirs,
                **{"extents": nothing, "generation": volume.generation} | fields,  # type: ignore[arg-type]
                acknowledged_position=len(events) - 1,
            )
        )
        for name, fields in kinds.items()
    }
    positions: dict[str, int] = {}
    with closing(KafkaPublisher(west.kafka_client())) as publisher:
        for name, value in made.items():
            key = b"" if "for all" in name else b"db"
            publisher.publish(topic, 0, key, value, partial(positions.__setitem__, name))
        publisher.flush(DEADLINE_S)
    return positions


def wait_for_statuses(
    roles: Roles, positions: Mapping[str, int]
) -> dict[int, tuple[StatusCode, str | None]]:
    """Return code and reason of the statuses by position, once those of `positions` are there."""
    settings = roles.settings(None)
    answers: dict[int, tuple[StatusCode, str | None]] = {}

    def are_there() -> bool:
        for message in read_topic(settings, settings.topics.status, 0):
            for status in read_statuses(message.value or b""):
                answers[status.position] = status.code, status.reason
        return set(positions.values()) <= set(answers)

    wait_until(are_there, every_s=0.5)
    return answers
