"""Asks the cluster: whether it answers, its topics, the rights on them, and what they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Final

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.adapters.kafka.descriptions import KafkaDescriptions, TopicDescription
from mirrorlog.broker.folder import BrokerFolder
from mirrorlog.broker_record import broker_folder
from mirrorlog.cli.doctor.snapshot import (
    ClockFacts,
    ClusterFacts,
    Groups,
    NoCluster,
    NotAsked,
    TopicFacts,
    ask,
)
from mirrorlog.cli.doctor.topic_checks import expected_specs
from mirrorlog.cli.support.present import open_present
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.settings import Settings
from mirrorlog.status.health import Thresholds
from mirrorlog.topics import CLIENT_GROUPS

if TYPE_CHECKING:
    from mirrorlog.reading.present_state import PresentState
    from mirrorlog.status.overview import Overview

ANSWER_WITHIN_S: Final = 3.0
_PATIENCE_S: Final = 5.0


def ask_cluster(settings: Settings) -> ClusterFacts | NoCluster:
    """Return the cluster; NoCluster if no broker answers within ANSWER_WITHIN_S."""
    servers = settings.servers
    try:
        with closing(KafkaAdmin(settings.kafka_client(), _PATIENCE_S)) as admin:
            admin.wait_ready(ANSWER_WITHIN_S)
            return ClusterFacts(
                servers=servers.addresses,
                chosen_by=servers.chosen_by(),
                cluster_id=admin.cluster_id(),
                brokers=admin.brokers(),
                version=_version(settings),
            )
    except KafkaFailed as error:
        return NoCluster(what=error.what, where=error.where, next=error.next)


def _version(settings: Settings) -> str | None:
    """Return Kafka's version if it is the embedded one. Other brokers don't tell theirs."""
    if not settings.servers.is_embedded:
        return None
    version = ask(BrokerFolder(broker_folder(settings.state_dir)).kafka_version)
    return None if isinstance(version, NotAsked) else version


def ask_topics(settings: Settings) -> list[TopicFacts]:
    """Return the topics of mirrorlog, in the order in which they are created."""
    names = [spec.name for spec in expected_specs(settings, single_copy=True)]
    with closing(KafkaDescriptions(settings.kafka_client(), _PATIENCE_S)) as descriptions:
        described = descriptions.topics(names)
    with closing(KafkaAdmin(settings.kafka_client(), _PATIENCE_S)) as admin:
        return [_topic(admin, name, described[name]) for name in names]


def _topic(admin: KafkaAdmin, name: str, described: TopicDescription) -> TopicFacts:
    if not described.exists:
        return TopicFacts(name=name, exists=described.exists, allowed=described.allowed)
    configs = ask(lambda: admin.configs([name])[name])
    return TopicFacts(
        name=name,
        exists=True,
        partitions=described.partitions,
        copies=described.copies,
        config=configs,
        allowed=described.allowed,
    )


def ask_groups(settings: Settings) -> Groups:
    """Return what the principal may do with the groups of the node and of readers."""
    groups = (settings.topics.node_group, f"{CLIENT_GROUPS}reader")
    with closing(KafkaDescriptions(settings.kafka_client(), _PATIENCE_S)) as descriptions:
        return {name: descriptions.group(name) for name in groups}


def ask_present(settings: Settings) -> tuple[Overview, ClockFacts, Collection[str]]:
    """Return how every part does, the newest message of those that were read for it, and the names
    of the authenticated volumes.
    """
    with open_present(settings, Thresholds()) as view:
        state = view.reader.refresh()
        now_us = SystemClock().now_us()
        newest_us = max(_append_times(state), default=None)
        authenticated = [
            name
            for name, volume in sorted(state.volumes.items())
            if volume.is_authenticated and not volume.is_retired
        ]
        clock = ClockFacts(now_us=now_us, newest_append_us=newest_us)
        return view.look(), clock, authenticated


def _append_times(state: PresentState) -> Iterable[int]:
    """Return when the broker appended each report, where it says so."""
    times = [secondary.appended_at_us for secondary in state.secondaries.values()]
    times += [lease.appended_at_us for lease in state.leases.values()]
    times += [host.appended_at_us for host in state.hosts.values()]
    times += [node.appended_at_us for node in state.nodes.values()]
    return [at_us for at_us in times if at_us is not None]
