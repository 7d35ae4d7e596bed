"""The rights on Kafka that each role needs: one closed list, from which ACLs are made. Pure.

The list says what the roles do through adapters/kafka and, for the node, through Faust. Kafka
derives Describe from Read, Write and Delete. A producer with idempotence needs no right of its own:
since Kafka 3.0 (KIP-679), Write on a topic is enough. `describe_cluster` isn't asked: the id of the
cluster and its brokers are in the metadata, which every client may read.

tests/integration/test_secured_broker.py runs every role on a broker that denies everything else.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mirrorlog.topics import CLIENT_GROUPS, Topics


class Role(StrEnum):
    """What a process is, or what a person does.

    archive: `archive run`. backup: `backup`, `restore`. auditor: `audit`, `changed`, `sql`, which
    read who wrote what, and nothing of sites and machines. dashboard: `dashboard`, `status`,
    `check`. reader: these, and `topics tail`, `doctor`. admin: `topics create`, `volume`, `site
    remove`, `command send`, `import`, `verify`, `archive off`.
    """

    HOST = "host"
    NODE = "node"
    SITE = "site"
    ARCHIVE = "archive"
    BACKUP = "backup"
    AUDITOR = "auditor"
    DASHBOARD = "dashboard"
    READER = "reader"
    ADMIN = "admin"


class KafkaOperation(StrEnum):
    """An operation of Kafka, by the name that kafka-acls.sh takes."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DESCRIBE = "Describe"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"
    DELETE = "Delete"

    @property
    def implied(self) -> frozenset[KafkaOperation]:
        """What Kafka allows whoever may do this: with Read, Write or Delete, Describe, too."""
        if self in (KafkaOperation.READ, KafkaOperation.WRITE, KafkaOperation.DELETE):
            return frozenset({self, KafkaOperation.DESCRIBE})
        if self is KafkaOperation.ALTER_CONFIGS:
            return frozenset({self, KafkaOperation.DESCRIBE_CONFIGS})
        return frozenset({self})


class Resource(StrEnum):
    """What a right is about."""

    TOPIC = "topic"
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Right:
    """One right. is_prefix: it is about all names that begin with `name`.

    why: what the role does with it.
    """

    operation: KafkaOperation
    resource: Resource
    name: str
    is_prefix: bool
    why: str

    @property
    def pattern(self) -> str:
        """The type of the pattern, as kafka-acls.sh names it."""
        return "prefixed" if self.is_prefix else "literal"


@dataclass(frozen=True, slots=True)
class _Rule:
    """A right on some topics. topics: the properties of Topics; empty: all with the prefix."""

    operation: KafkaOperation
    why: str
    topics: tuple[str, ...] = ()


_HISTORY: Final = ("commands", "changelog", "status")
_RULES: Final[Mapping[Role, Sequence[_Rule]]] = {
    Role.HOST: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "which sessions are open", ("commands", "changelog")),
        _Rule(KafkaOperation.READ, "what the node recorded (host_confirm=recorded)", ("status",)),
        _Rule(KafkaOperation.READ, "which secondaries a fork may write to", ("progress",)),
        _Rule(KafkaOperation.WRITE, "tracking commands", ("commands",)),
        _Rule(KafkaOperation.WRITE, "the host's reports", ("reports",)),
        _Rule(KafkaOperation.READ, "which digests are asked for (`host digest`)", ("digests",)),
        _Rule(KafkaOperation.WRITE, "digests of the primary (`host digest`)", ("digests",)),
    ),
    Role.NODE: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "tracking commands", ("commands",)),
        _Rule(KafkaOperation.READ, "the changelog of its table", ("changelog",)),
        _Rule(KafkaOperation.READ, "what sites still need of the log", ("progress",)),
        _Rule(KafkaOperation.WRITE, "the log", ("changelog",)),
        _Rule(KafkaOperation.WRITE, "the status of commands", ("status",)),
        _Rule(KafkaOperation.WRITE, "refused events", ("quarantine",)),
        _Rule(
            KafkaOperation.WRITE,
            "MARK_DIRTY for missing commands, and commands of another partition",
            ("commands",),
        ),
        _Rule(KafkaOperation.WRITE, "new generations when a history is renewed", ("volumes",)),
        _Rule(KafkaOperation.WRITE, "the workers' reports", ("reports",)),
    ),
    Role.SITE: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "the log", ("changelog",)),
        _Rule(KafkaOperation.READ, "who runs the site", ("progress",)),
        _Rule(
            KafkaOperation.DESCRIBE, "where they end, and their partitions", ("commands", "status")
        ),
        _Rule(KafkaOperation.WRITE, "the site's lease and progress", ("progress",)),
        _Rule(KafkaOperation.READ, "which digests are asked for", ("digests",)),
        _Rule(KafkaOperation.WRITE, "digests of secondary and primary", ("digests",)),
    ),
    Role.ARCHIVE: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "tracking commands", ("commands",)),
        _Rule(KafkaOperation.READ, "what the node recorded of them", ("changelog",)),
        _Rule(KafkaOperation.DESCRIBE_CONFIGS, "the topic's retention", ("commands",)),
        _Rule(KafkaOperation.ALTER_CONFIGS, "the topic keeps what isn't archived", ("commands",)),
        _Rule(KafkaOperation.DELETE, "commands that are archived", ("commands",)),
        _Rule(KafkaOperation.WRITE, "the archiver's reports", ("reports",)),
    ),
    Role.BACKUP: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "the log: what changed since the last point", ("changelog",)),
        _Rule(KafkaOperation.READ, "whether the log still means the same", ("commands",)),
        _Rule(KafkaOperation.READ, "what is registered of the repository", ("progress",)),
        _Rule(KafkaOperation.WRITE, "the repository's registration", ("progress",)),
    ),
    Role.AUDITOR: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "who wrote what", ("commands",)),
        _Rule(KafkaOperation.READ, "what the node recorded of them", ("changelog", "status")),
        _Rule(KafkaOperation.READ, "what the node refused, and why", ("quarantine",)),
    ),
    Role.DASHBOARD: (
        _Rule(KafkaOperation.READ, "which volumes there are", ("volumes",)),
        _Rule(KafkaOperation.READ, "the log: what changed, and how far sites are behind", _HISTORY),
        _Rule(KafkaOperation.READ, "how sites, hosts and workers do", ("progress", "reports")),
        _Rule(KafkaOperation.READ, "what the node refused, and why", ("quarantine",)),
        _Rule(KafkaOperation.READ, "the last verifications", ("verifications",)),
    ),
    Role.READER: (
        _Rule(KafkaOperation.READ, "everything"),
        _Rule(KafkaOperation.DESCRIBE_CONFIGS, "the settings of the topics (`doctor`)"),
    ),
    Role.ADMIN: (
        _Rule(KafkaOperation.CREATE, "`topics create`"),
        _Rule(KafkaOperation.ALTER_CONFIGS, "`topics create`, for topics of an earlier release"),
        _Rule(KafkaOperation.DESCRIBE_CONFIGS, "`topics create`, `doctor`"),
        _Rule(KafkaOperation.READ, "everything"),
        _Rule(KafkaOperation.WRITE, "descriptions of volumes", ("volumes",)),
        _Rule(
            KafkaOperation.WRITE,
            "`command send`, `import`, `verify --repair`, `promote`",
            ("commands",),
        ),
        _Rule(KafkaOperation.WRITE, "`verify`, `site remove`", ("digests", "verifications")),
        _Rule(KafkaOperation.WRITE, "`site remove`", ("progress",)),
    ),
}


def rights_of(role: Role, topics: Topics) -> list[Right]:
    """Return the rights that `role` needs on these topics, and on the consumer groups."""
    rights = []
    for rule in _RULES[role]:
        names = [getattr(topics, name) for name in rule.topics] or [topics.prefix]
        is_prefix = not rule.topics
        rights += [
            Right(rule.operation, Resource.TOPIC, name, is_prefix, rule.why) for name in names
        ]
    if role in (Role.NODE, Role.HOST, Role.BACKUP, Role.DASHBOARD, Role.READER):
        why = "the progress of sites that mirrors bring"
        rights += [
            Right(KafkaOperation.READ, Resource.TOPIC, name, False, why)
            for name in topics.all_progress[1:]
        ]
    if role is Role.SITE and topics.mirror_prefix:
        why = "digests, for a verifier at the source of the mirror"
        rights.append(
            Right(KafkaOperation.WRITE, Resource.TOPIC, topics.digest_answers, False, why)
        )
    if role is Role.NODE:
        why = "the questions of sites that read a mirror"
        rights += [
            Right(KafkaOperation.READ, Resource.TOPIC, name, False, why)
            for name in topics.mirrored_questions
        ]
        why = "the workers' group"
        rights.append(Right(KafkaOperation.READ, Resource.GROUP, topics.node_group, False, why))
    why = "every reader asks for the group that it is named after, and joins none"
    rights.append(Right(KafkaOperation.DESCRIBE, Resource.GROUP, CLIENT_GROUPS, True, why))
    return rights


@dataclass(frozen=True, slots=True)
class Acl:
    """A right that a principal is to have from any machine. principal: as `User:name`."""

    principal: str
    role: Role
    right: Right

    def as_fields(self) -> dict[str, str]:
        """Return the ACL as --json prints it."""
        return {
            "principal": self.principal,
            "role": str(self.role),
            "host": "*",
            "permission": "Allow",
            "operation": str(self.right.operation),
            "resource_type": str(self.right.resource),
            "pattern_type": self.right.pattern,
            "name": self.right.name,
            "why": self.right.why,
        }


def default_principal(role: Role) -> str:
    """Return the principal that a role has if none is named."""
    return f"User:mirrorlog-{role}"


def acls_for(roles: Iterable[Role], topics: Topics, principal: str | None = None) -> list[Acl]:
    """Return the ACLs of the roles, each once.

    principal: has all the roles; None: each role has its default principal.
    """
    acls: dict[tuple[str, KafkaOperation, Resource, str], Acl] = {}
    for role in roles:
        holder = principal or default_principal(role)
        for right in rights_of(role, topics):
            key = (holder, right.operation, right.resource, right.name)
            acls.setdefault(key, Acl(holder, role, right))
    return list(acls.values())


def kafka_acls_commands(acls: Iterable[Acl], servers: str) -> list[str]:
    """Return the commands of Kafka's own tool that create the ACLs.

    One command stands for all names of a principal with the same operations and pattern.
    """
    operations: dict[tuple[str, Resource, str, str], list[KafkaOperation]] = {}
    for acl in acls:
        key = (acl.principal, acl.right.resource, acl.right.pattern, acl.right.name)
        operations.setdefault(key, []).append(acl.right.operation)
    names: dict[tuple[str, Resource, str, tuple[KafkaOperation, ...]], list[str]] = {}
    for (principal, resource, pattern, name), allowed in operations.items():
        names.setdefault((principal, resource, pattern, tuple(allowed)), []).append(name)
    return [
        shlex.join(
            [
                *("kafka-acls.sh", "--bootstrap-server", servers, "--add"),
                *("--allow-principal", principal),
                *(word for operation in allowed for word in ("--operation", operation)),
                *(word for name in right for word in (f"--{resource}", name)),
                *("--resource-pattern-type", pattern),
            ]
        )
        for (principal, resource, pattern, allowed), right in names.items()
    ]
