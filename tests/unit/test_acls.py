"""The rights of the roles: nothing beyond what the list says, and Kafka's own words for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count

import keyed_node
import pytest
from command_line import run_main

from mirrorlog.acls import KafkaOperation, Resource, Role, acls_for, kafka_acls_commands, rights_of
from mirrorlog.domain.commands import CommandKind
from mirrorlog.simulation.memory_engine import MemoryEngine
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import Topics

TOPICS = Topics("p.")
WRITERS = {
    Role.HOST: {"commands", "reports", "digests"},
    Role.NODE: {"log", "status", "quarantine", "volumes", "reports", "commands"},
    Role.SITE: {"progress", "digests"},
    Role.ARCHIVE: {"reports"},
    Role.BACKUP: {"progress"},
    Role.AUDITOR: set(),
    Role.DASHBOARD: set(),
    Role.READER: set(),
    Role.ADMIN: {"volumes", "commands", "progress", "digests", "verifications"},
}


@pytest.mark.parametrize("role", Role)
def test_a_role_writes_to_these_topics_and_to_no_others(role: Role) -> None:
    written = {
        right.name for right in rights_of(role, TOPICS) if right.operation is KafkaOperation.WRITE
    }
    assert written == {f"p.{name}" for name in WRITERS[role]}


@pytest.mark.parametrize("role", Role)
def test_every_right_is_about_names_of_mirrorlog_and_is_needed_once(role: Role) -> None:
    rights = rights_of(role, TOPICS)
    assert all(right.name.startswith(("p.", "mirrorlog.")) and right.why for right in rights)
    keys = [(right.operation, right.resource, right.name) for right in rights]
    assert len(set(keys)) == len(keys)


def test_the_node_alone_joins_a_group() -> None:
    joined = {
        (role, right.name)
        for role in Role
        for right in rights_of(role, TOPICS)
        if right.resource is Resource.GROUP and right.operation is KafkaOperation.READ
    }
    assert joined == {(Role.NODE, "p.node")}


def test_a_principal_with_every_role_has_each_acl_once() -> None:
    acls = acls_for(Role, TOPICS, "User:all")
    keys = [(acl.right.operation, acl.right.resource, acl.right.name) for acl in acls]
    assert len(set(keys)) == len(keys)
    assert {acl.principal for acl in acls} == {"User:all"}


def test_the_commands_quote_what_a_shell_would_split() -> None:
    acls = acls_for([Role.SITE], TOPICS, "User:CN=a b,O=c")
    commands = kafka_acls_commands(acls, "one:1,two:2")
    assert all("--allow-principal 'User:CN=a b,O=c'" in line for line in commands)
    assert commands[0] == (
        "kafka-acls.sh --bootstrap-server one:1,two:2 --add --allow-principal 'User:CN=a b,O=c' "
        "--operation Read --topic p.volumes --topic p.log --resource-pattern-type literal"
    )


def test_json_names_every_acl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRRORLOG_TOPIC_PREFIX", "p.")
    code, out, err = run_main(["acl", "--role", "site", "--json"])
    assert code == 0, err
    answer = json.loads(out)
    assert answer["schema_version"] == 1
    assert {
        "principal": "User:mirrorlog-site",
        "role": "site",
        "host": "*",
        "permission": "Allow",
        "operation": "Write",
        "resource_type": "topic",
        "pattern_type": "literal",
        "name": "p.progress",
        "why": "the site's lease and progress",
    } in answer["acls"]
    assert len(answer["acls"]) == len(rights_of(Role.SITE, TOPICS))
    assert all(line.startswith("kafka-acls.sh ") for line in answer["commands"])


@pytest.mark.parametrize(
    "arguments", ["--principal alice", "--principal User:", "--yes", "--dry-run"]
)
def test_bad_use_is_refused(arguments: str) -> None:
    code, out, _ = run_main(["acl", *arguments.split()])
    assert (code, out) == (2, "")


def test_the_node_may_write_wherever_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where commands are missing it publishes one of its own, and it passes others on."""
    written: set[str] = set()
    send = MemoryEngine.send

    async def noted(engine: MemoryEngine, messages: Sequence[Outgoing]) -> list[int]:
        written.update(message.topic for message in messages)
        return await send(engine, messages)

    monkeypatch.setattr(MemoryEngine, "send", noted)
    cluster = keyed_node.KeyedCluster()
    next(
        cluster.sequences.setdefault(keyed_node.SESSION, count())
    )  # the first command never arrives
    cluster.east(CommandKind.SESSION_OPEN)
    cluster.broker.append(keyed_node.TOPICS.commands, 0, b"db", b"no event")
    cluster.fold()
    may_write = {
        right.name
        for right in rights_of(Role.NODE, keyed_node.TOPICS)
        if right.operation is KafkaOperation.WRITE
    }
    assert keyed_node.TOPICS.commands in written
    assert written <= may_write
