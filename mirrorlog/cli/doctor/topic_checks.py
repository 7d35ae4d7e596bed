"""Judges the topics, their settings, and the rights on them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mirrorlog.acls import KafkaOperation, Resource, Right, Role, rights_of
from mirrorlog.cli.doctor.findings import Finding, Result, failed, not_asked, ok, warning
from mirrorlog.cli.doctor.snapshot import Groups, NotAsked, Snapshot, TopicFacts
from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.partition_counts import check_partition_counts
from mirrorlog.settings import Settings
from mirrorlog.topics import (
    BROKER_TIME,
    MESSAGE_MAX_BYTES,
    Topics,
    TopicSpec,
    copies_in_sync,
    differing,
)

_CREATE: Final = "Run `mirrorlog topics create`."
_NO_SETTINGS: Final = NotAsked("the settings can't be read")


def expected_specs(settings: Settings, *, single_copy: bool) -> list[TopicSpec]:
    """Return how the topics of this cluster are to be: all, or those of a mirrored site."""
    topics = settings.topics
    if settings.kafka_mirror_of:
        return [*topics.mirrored_specs(), *topics.mirror_specs()]
    return topics.specs(single_copy=single_copy)


def check_topics(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge whether the topics exist, with equally many partitions and more than one copy."""
    topics = snapshot.topics
    if isinstance(topics, NotAsked) or snapshot.settings is None:
        yield not_asked(topics if isinstance(topics, NotAsked) else _NO_SETTINGS)
        return
    names = snapshot.settings.topics
    findings = [*_missing(topics, names), *_partitions(topics, names)]
    if not findings:
        yield ok(f"all {len(topics)} topics exist, with equally many partitions")
    yield from findings
    yield from _copies(topics, snapshot.settings.replication_factor)


def _missing(topics: Sequence[TopicFacts], names: Topics) -> Iterator[Finding]:
    """Yield a finding for each topic that isn't there, or can't be seen."""
    for topic in topics:
        where = f"topic {topic.name}"
        if topic.exists is None:
            why = "this principal may not see it, so nobody knows whether it exists"
            yield Finding(Result.NOT_ASKED, why, where)
        elif not topic.exists and topic.name == names.reports:
            yield warning("it doesn't exist: hosts and workers report nothing", where, _CREATE)
        elif not topic.exists and topic.name in (names.digests, names.verifications):
            yield warning("it doesn't exist: `mirrorlog verify` needs it", where, _CREATE)
        elif not topic.exists:
            yield failed("it doesn't exist", where, _CREATE)


def _partitions(topics: Sequence[TopicFacts], names: Topics) -> Iterator[Finding]:
    """Yield a finding if the topics differ in their partitions."""
    alike = (names.commands, names.changelog, names.status)
    counts = {topic.name: topic.partitions for topic in topics if topic.name in alike}
    known = {name: count for name, count in counts.items() if count is not None}
    try:
        if known:
            check_partition_counts(known)
    except KafkaFailed as error:
        yield failed(error.what, error.where, error.next)
    for topic in topics:
        if topic.name not in alike and (topic.partitions or 1) > 1:
            text = f"it has {topic.partitions} partitions, and only the first is used"
            yield warning(text, f"topic {topic.name}")


def _copies(topics: Sequence[TopicFacts], wanted: int) -> Iterator[Finding]:
    """Yield a finding for topics with one copy, or with fewer than wanted (0: not said)."""
    lone = [topic.name for topic in topics if topic.copies == 1]
    fewer = [
        topic.name for topic in topics if topic.copies is not None and 1 < topic.copies < wanted
    ]
    if lone:
        text = "there is one copy of each message, which is lost with its broker"
        where = f"replication factor 1 of {', '.join(lone)}"
        yield warning(text, where, "Where data matter, use a cluster of three brokers.")
    if fewer:
        text = f"there are fewer copies than replication_factor = {wanted} asks for"
        yield warning(text, ", ".join(fewer), "Add copies with kafka-reassign-partitions.sh.")


_EXACT: Final = {
    "cleanup.policy": Result.FAILED,
    "message.timestamp.type": Result.FAILED,
    "flush.messages": Result.WARNING,
}
"""Settings that must have the value with which topics are created."""
_AT_LEAST: Final = {
    "retention.ms": Result.WARNING,
    "max.message.bytes": Result.FAILED,
    "min.insync.replicas": Result.WARNING,
}
"""Settings that may be larger. -1 is no limit."""
_AT_MOST: Final = {"max.compaction.lag.ms": Result.WARNING, "segment.bytes": Result.WARNING}


def check_topic_settings(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge the settings of the topics by those with which `topics create` creates them."""
    if isinstance(snapshot.topics, NotAsked) or snapshot.settings is None:
        unknown = snapshot.topics if isinstance(snapshot.topics, NotAsked) else _NO_SETTINGS
        yield not_asked(unknown)
        return
    findings, judged = [], 0
    for facts in snapshot.topics:
        if not facts.exists:
            continue
        if isinstance(facts.config, NotAsked):
            findings.append(Finding(Result.NOT_ASKED, facts.config.why, f"topic {facts.name}"))
            continue
        judged += 1
        specs = expected_specs(snapshot.settings, single_copy=facts.copies == 1)
        spec = next(spec for spec in specs if spec.name == facts.name)
        findings += _judge_settings(spec, facts.copies or 1, facts.config)
    if judged and not any(check.result is not Result.NOT_ASKED for check in findings):
        yield ok(f"{judged} topics have the settings that they need")
    elif not judged and not findings:
        yield not_asked(NotAsked("there is no topic"))
    yield from findings


def _judge_settings(
    spec: TopicSpec, copies: int, config: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Yield a finding for each setting of a topic that isn't as it must be."""
    wanted = {
        "max.message.bytes": str(MESSAGE_MAX_BYTES),
        **copies_in_sync(copies),
        **spec.config,
    }
    for name, value in differing(wanted, config).items():
        if result := _result_of(name, wanted[name], value):
            yield _setting_finding(result, spec.name, name, value, wanted[name])
    kept_bytes = config.get("retention.bytes") or "-1"
    if spec.config["cleanup.policy"] == "delete" and kept_bytes != "-1":
        yield _setting_finding(Result.WARNING, spec.name, "retention.bytes", kept_bytes, "-1")
    segment, largest = _number(config.get("segment.bytes")), _number(wanted["max.message.bytes"])
    if segment is not None and largest is not None and segment < largest:
        yield _setting_finding(
            Result.FAILED, spec.name, "segment.bytes", str(segment), f"at least {largest}"
        )


def _result_of(name: str, wanted: str, actual: str | None) -> Result | None:
    """Return how bad it is that a setting isn't the wanted one; None if it is good all the same."""
    if name in _EXACT:
        return _EXACT[name]
    limit, number = _number(wanted), _number(actual)
    if limit is None or number is None:
        return Result.WARNING
    if name in _AT_LEAST:
        return None if number >= limit or number == -1 else _AT_LEAST[name]
    return None if 0 <= number <= limit else _AT_MOST.get(name, Result.WARNING)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _setting_finding(
    result: Result, topic: str, name: str, actual: str | None, wanted: str
) -> Finding:
    advice = _CREATE
    if name not in BROKER_TIME:
        change = f"--alter --topic {topic} --add-config {name}={wanted.removeprefix('at least ')}"
        advice = f"Change it: `kafka-configs.sh {change}`."
    return Finding(
        result, f"{name} is {actual or 'unknown'}, and {wanted} is needed", f"topic {topic}", advice
    )


def check_rights(snapshot: Snapshot) -> Iterator[Finding]:
    """Judge what the principal may do by what the role needs; without a role, name the roles.

    Nothing is written to find out: the cluster is asked what it would allow.
    """
    if isinstance(snapshot.topics, NotAsked) or snapshot.settings is None:
        unknown = snapshot.topics if isinstance(snapshot.topics, NotAsked) else _NO_SETTINGS
        yield not_asked(unknown)
        return
    allowed = {
        (Resource.TOPIC, topic.name): topic.allowed
        for topic in snapshot.topics
        if topic.exists is not False
    }
    if isinstance(snapshot.groups, NotAsked):
        yield not_asked(snapshot.groups)
    else:
        allowed |= _of_groups(snapshot.groups)
    if all(operations is None for operations in allowed.values()):
        yield not_asked(NotAsked("the cluster doesn't say what this principal may do"))
        return
    names, role = snapshot.settings.topics, snapshot.role
    if role is not None:
        yield from _of_role(role, _lacking(rights_of(role, names), allowed))
        return
    roles = [role for role in Role if not _lacking(rights_of(role, names), allowed)]
    if roles:
        yield ok(f"this principal has the rights of these roles: {', '.join(roles)}")
    else:
        text = "this principal hasn't all the rights of any role"
        yield warning(text, next="See `mirrorlog doctor --role ROLE` and `mirrorlog acl`.")


_Allowed = Mapping[tuple[Resource, str], frozenset[KafkaOperation] | None]


def _of_groups(groups: Groups) -> _Allowed:
    return {(Resource.GROUP, name): allowed for name, allowed in groups.items()}


def _lacking(rights: Sequence[Right], allowed: _Allowed) -> list[tuple[Right, str]]:
    """Return the rights that the principal lacks, each with the name that it is about.

    What the cluster doesn't say isn't counted.
    """
    return [
        (right, name)
        for right in rights
        for (resource, name), operations in allowed.items()
        if resource is right.resource
        and (name.startswith(right.name) if right.is_prefix else name == right.name)
        and operations is not None
        and right.operation not in operations
    ]


def _of_role(role: Role, lacking: Sequence[tuple[Right, str]]) -> Iterator[Finding]:
    for right, name in lacking:
        yield failed(
            f"this principal may not {right.operation}, and a {role} needs it for {right.why}",
            f"{right.resource} {name}",
            f"`mirrorlog acl --role {role} --principal TYPE:NAME` prints the ACLs.",
        )
    if not lacking:
        yield ok(f"this principal has the rights of the role {role}")
