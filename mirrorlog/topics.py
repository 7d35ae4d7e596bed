"""The topics of mirrorlog: their names, and how long each keeps its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_FLUSHED: Final = {"flush.messages": "1"}
_COMPACTED: Final = {"cleanup.policy": "compact", "max.compaction.lag.ms": str(24 * 3600 * 1000)}
_REPORTS: Final = {**_COMPACTED, "segment.bytes": str(16 << 20)}
"""Kafka compacts only segments that are full, and every command reads reports from the first on."""
BROKER_TIME: Final[Mapping[str, str]] = {"message.timestamp.type": "LogAppendTime"}
"""The topics hold the broker's times (invariant 15). With hosts' times, Kafka refuses the batch of
a host whose clock is an hour ahead, and its retention deletes what a host in 1970 has just
published."""
_MIB: Final = 1 << 20
MESSAGE_MAX_BYTES: Final = 1_000_000
"""The key and the value that the node puts into one message of any topic but the quarantine. Kafka
takes 1,048,588 bytes with their overhead unless a topic or the cluster says otherwise
(max.message.bytes)."""
QUARANTINE_MAX_BYTES: Final = 2 * _MIB
"""Large enough for an event that no client compressed, and for the reason of its refusal (invariant
11). Kafka limits what an event takes when it is compressed, so an event may be larger than this."""
QUARANTINED_VALUE_MAX_BYTES: Final = 3 * _MIB // 2
QUARANTINED_KEY_MAX_BYTES: Final = 64 << 10
"""The bytes of a refused event that are kept. The key is in the message twice."""


CLIENT_GROUPS: Final = "mirrorlog."
"""The beginning of the group that a client of librdkafka is named after. Such a client joins no
group and commits nothing, but asks the cluster for the group's coordinator."""


def copies_in_sync(copies: int) -> Mapping[str, str]:
    """Return the setting that says how many copies must hold an acknowledged message: all but one.

    copies: the replication factor.
    """
    return {"min.insync.replicas": str(max(1, copies - 1))}


def differing(wanted: Mapping[str, str], actual: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the settings of `actual` that aren't as wanted, by name; None for one it lacks."""
    return {name: actual.get(name) for name, value in wanted.items() if actual.get(name) != value}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """The settings with which a topic is created.

    one_partition: it has one partition, whatever the number of partitions of the commands topic.
    """

    name: str
    config: Mapping[str, str]
    one_partition: bool = False


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of the topics. All begin with `prefix`, so that one prefixed ACL covers them.

    mirrored_sites: what mirrors put before the names of the topics that they bring from the
        clusters of sites; an empty text if one keeps the names. Without such sites there are no
        questions.
    mirror_prefix: what a mirror puts before the names of the topics that it brings here, where a
        site reads the log from it: descriptions, commands and the log are the mirror's then.
    """

    prefix: str = "mirrorlog."
    mirrored_sites: tuple[str, ...] = ()
    mirror_prefix: str = ""

    @property
    def volumes(self) -> str:
        """The latest description of each volume."""
        return f"{self.mirror_prefix}{self.prefix}volumes"

    @property
    def commands(self) -> str:
        """The tracking commands: the history that audits replay."""
        return f"{self.mirror_prefix}{self.prefix}commands"

    @property
    def status(self) -> str:
        """The node's status of each command."""
        return f"{self.prefix}status"

    @property
    def quarantine(self) -> str:
        """The refused events: their bytes, reason and position."""
        return f"{self.prefix}quarantine"

    @property
    def changelog(self) -> str:
        """The tracking log: the changelog of the node's table, which the sites read."""
        return f"{self.mirror_prefix}{self.prefix}log"

    @property
    def progress(self) -> str:
        """The applied position and the state of each secondary."""
        return f"{self.prefix}progress"

    @property
    def reports(self) -> str:
        """The last report of each host and of each worker of the node, for people.

        Clusters of older releases lack it, and everything works without it.
        """
        return f"{self.prefix}reports"

    @property
    def digests(self) -> str:
        """The questions of verifications, and the digests that answer them.

        Clusters of older releases lack it, and nothing but `mirrorlog verify` needs it. A site that
        reads a mirror reads the questions that the mirror brings.
        """
        return f"{self.mirror_prefix}{self.prefix}digests"

    @property
    def digest_answers(self) -> str:
        """The answers of a site that reads a mirror. A mirror brings them to the verifier."""
        return f"{self.prefix}digest_answers"

    @property
    def mirrored_answers(self) -> tuple[str, ...]:
        """The topics in which the answers of mirrored sites arrive. A cluster may lack them."""
        return tuple(f"{mirror}{self.digest_answers}" for mirror in self.mirrored_sites)

    @property
    def verifications(self) -> str:
        """The last report of the verification of each secondary. Older clusters lack it, too."""
        return f"{self.prefix}verifications"

    @property
    def questions(self) -> str:
        """The questions of sites that read a mirror of the log (docs/multi-site.md).

        It is in the clusters of such sites. A mirror brings it to the cluster of the node.
        """
        return f"{self.prefix}questions"

    @property
    def mirrored_questions(self) -> tuple[str, ...]:
        """The topics in which the questions of mirrored sites arrive."""
        return tuple(f"{mirror}{self.questions}" for mirror in self.mirrored_sites)

    @property
    def all_progress(self) -> tuple[str, ...]:
        """The topics that hold the progress of sites: the cluster's own, and what mirrors bring."""
        mirrored = (f"{mirror}{self.progress}" for mirror in self.mirrored_sites if mirror)
        return (self.progress, *mirrored)

    @property
    def node_group(self) -> str:
        """The consumer group of the node's workers."""
        return f"{self.prefix}node"

    def mirror_specs(self) -> list[TopicSpec]:
        """Return the specification of the topics of a site that reads a mirror of the log."""
        return [
            TopicSpec(name, {**_REPORTS, **BROKER_TIME}, one_partition=True)
            for name in (self.progress, self.questions, self.reports)
        ] + [self._digests_spec(self.digest_answers)]

    def _digests_spec(self, name: str) -> TopicSpec:
        config = {"cleanup.policy": "delete", "retention.ms": str(24 * 3600 * 1000), **BROKER_TIME}
        return TopicSpec(name, config, one_partition=True)

    def mirrored_specs(self) -> list[TopicSpec]:
        """Return what the topics that a mirror makes for a site must be like.

        They hold the times of the source's broker: a mirror copies times, and not their type.
        """
        config = {"cleanup.policy": "compact"}
        return [
            TopicSpec(self.changelog, config),
            TopicSpec(self.volumes, config, one_partition=True),
        ]

    def specs(self, *, single_copy: bool) -> list[TopicSpec]:
        """Return the specification of every topic. All hold the broker's times.

        single_copy: each partition has one replica. A broker acknowledges it from memory unless it
        flushes each message (invariant 12), so the topics with state do that.
        """
        durable = {**BROKER_TIME, **(_FLUSHED if single_copy else {})}
        days = 24 * 3600 * 1000
        return [
            TopicSpec(self.volumes, {**_COMPACTED, **durable}, one_partition=True),
            TopicSpec(
                self.commands,
                {"cleanup.policy": "delete", "retention.ms": str(365 * days), **durable},
            ),
            TopicSpec(
                self.status,
                {"cleanup.policy": "delete", "retention.ms": str(days), **BROKER_TIME},
            ),
            TopicSpec(
                self.quarantine,
                {
                    "cleanup.policy": "delete",
                    "retention.ms": str(365 * days),
                    "max.message.bytes": str(QUARANTINE_MAX_BYTES),
                    **durable,
                },
                one_partition=True,
            ),
            TopicSpec(self.changelog, {**_COMPACTED, **durable}),
            TopicSpec(self.progress, {**_REPORTS, **BROKER_TIME}, one_partition=True),
            TopicSpec(self.reports, {**_REPORTS, **BROKER_TIME}, one_partition=True),
            self._digests_spec(self.digests),
            TopicSpec(self.verifications, {**_REPORTS, **BROKER_TIME}, one_partition=True),
        ]
