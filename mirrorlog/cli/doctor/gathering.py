"""Gathers the snapshot: one question after the other, none of which hides another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mirrorlog.acls import KafkaOperation, Role
from mirrorlog.cli.doctor import machine
from mirrorlog.cli.doctor.http_ports import http_ports
from mirrorlog.cli.doctor.snapshot import (
    ClusterFacts,
    NoCluster,
    NotAsked,
    Snapshot,
    TopicFacts,
    ask,
)
from mirrorlog.cli.support.context import CONNECT_WITHIN_S, settings_from
from mirrorlog.cli.support.settings_view import examine
from mirrorlog.settings import Settings
from mirrorlog.topics import Topics

_NO_SETTINGS: Final = NotAsked("the settings can't be read")


def gather(values: Mapping[str, Any], role: Role | None) -> Snapshot:
    """Return what the machine and the cluster say.

    values: the global options. role: of this machine; None if it isn't said.
    Raise BadUse if -F or -X are wrong.
    """
    loaded, problems = examine(values)
    settings = None
    if loaded is not None:
        settings = settings_from(
            None,
            values.get("client_file"),
            values.get("client_options") or (),
            values.get("bootstrap_servers"),
            values.get("state_dir"),
            loaded=loaded.settings,
        ).with_connect_within_s(CONNECT_WITHIN_S)
    snapshot = Snapshot(
        role=role,
        problems=problems,
        settings=settings,
        libraries=ask(machine.libraries),
        identity=ask(machine.identity),
        folder=_NO_SETTINGS,
        ports=_NO_SETTINGS,
        open_files=ask(machine.open_file_limit),
        tools=ask(machine.tools),
        cluster=_NO_SETTINGS,
        topics=_NO_SETTINGS,
        groups=_NO_SETTINGS,
        overview=_NO_SETTINGS,
        clock=_NO_SETTINGS,
    )
    if settings is None:
        return snapshot
    known = settings
    snapshot = replace(
        snapshot,
        folder=ask(lambda: machine.state_folder(known.state_dir)),
        ports=ask(lambda: http_ports(known, role)),
        host_keys=ask(lambda: machine.host_keys(known.node_host_keys_file)),
    )
    return _with_cluster(snapshot, settings)


def _with_cluster(snapshot: Snapshot, settings: Settings) -> Snapshot:
    """Return the snapshot with what the cluster says. One that doesn't answer is asked once."""
    from mirrorlog.cli.doctor import cluster

    facts = ask(lambda: cluster.ask_cluster(settings))
    if not isinstance(facts, ClusterFacts):
        silent = NotAsked(f"no broker answers at {settings.servers.addresses}")
        unknown = silent if isinstance(facts, NoCluster) else facts
        return replace(
            snapshot,
            cluster=facts,
            topics=unknown,
            groups=unknown,
            overview=unknown,
            clock=unknown,
            authenticated=unknown,
        )
    topics = ask(lambda: cluster.ask_topics(settings))
    unread = None if isinstance(topics, NotAsked) else _unreadable(topics, settings.topics)
    present = unread if unread is not None else ask(lambda: cluster.ask_present(settings))
    overview, clock, authenticated = (present,) * 3 if isinstance(present, NotAsked) else present
    return replace(
        snapshot,
        cluster=facts,
        topics=topics,
        groups=ask(lambda: cluster.ask_groups(settings)),
        overview=overview,
        clock=clock,
        authenticated=authenticated,
    )


def _unreadable(topics: Sequence[TopicFacts], names: Topics) -> NotAsked | None:
    """Return why the present state of the parts can't be read; None if it may be read.

    Kafka's client takes a topic that it may not see for one that was just created, and waits.
    """
    needed = (names.volumes, names.progress, names.reports, names.quarantine)
    denied = [
        topic.name
        for topic in topics
        if topic.name in needed
        and topic.allowed is not None
        and KafkaOperation.READ not in topic.allowed
    ]
    if not denied:
        return None
    return NotAsked(f"this principal may not read {', '.join(denied)}, as a reader may")
