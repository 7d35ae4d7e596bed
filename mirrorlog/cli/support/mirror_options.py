"""Commands and mirrors of the log: which can read one, and which need its source."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings

MirrorOfOption = Annotated[
    str | None,
    typer.Option(
        "--mirror-of",
        metavar="CLUSTER_ID",
        help="The log here is a mirror of that cluster's, made by MirrorMaker "
        "(setting kafka_mirror_of).",
    ),
]
MirrorPrefixOption = Annotated[
    str | None,
    typer.Option(
        "--mirror-prefix",
        metavar="PREFIX",
        help="What the mirror puts before the names of topics, such as source. "
        "(setting kafka_mirror_prefix).",
    ),
]


def with_mirror(call: Invocation, mirror_of: str | None, prefix: str | None) -> Invocation:
    """Return the call with the options in its settings. Raise BadUse for a prefix by itself."""
    given = {"kafka_mirror_of": mirror_of, "kafka_mirror_prefix": prefix}
    update = {name: value for name, value in given.items() if value is not None}
    settings = call.settings.model_copy(update=update)
    if settings.kafka_mirror_prefix and not settings.kafka_mirror_of:
        raise BadUse(
            "a prefix of a mirror is named, and not whose mirror it is",
            where="kafka_mirror_prefix",
            next="Say --mirror-of CLUSTER_ID, too. `mirrorlog doctor` at the source says its id.",
        )
    return replace(call, settings=settings)


def at_source(call: Invocation, *, or_mirror: bool = False) -> Invocation:
    """Return the call as one that reads and publishes at the source of the mirror.

    The same configuration serves a site's own cluster and the source: which of both it is, the
    cluster says. Without `kafka_mirror_of` the call is returned as it is. or_mirror: so it is at a
    mirror. Raise BadUse if the cluster isn't the source otherwise, KafkaFailed if it doesn't
    answer.
    """
    if not call.settings.kafka_mirror_of:
        return call
    from mirrorlog.adapters.kafka import KafkaAdmin

    with closing(KafkaAdmin(call.settings.kafka_client())) as admin:
        cluster = admin.cluster_id()
    return replace(call, settings=source_settings(call.settings, cluster, or_mirror=or_mirror))


def source_settings(settings: Settings, cluster: str, *, or_mirror: bool = False) -> Settings:
    """Return the settings for the source of a mirror. Raise BadUse if `cluster` isn't the source.

    settings: name a source (kafka_mirror_of). cluster: the id of the cluster that they lead to.
    or_mirror: return the settings as they are if it isn't the source.
    """
    if cluster != settings.kafka_mirror_of:
        if or_mirror:
            return settings
        raise mirror_error(settings.kafka_mirror_of, cluster)
    return settings.model_copy(update={"kafka_mirror_of": "", "kafka_mirror_prefix": ""})


def mirror_error(source: str, cluster: str) -> BadUse:
    """Return the error for a command that needs the source of a mirror. source: its cluster's id.

    cluster: the id of the cluster that was asked.
    """
    if cluster == source:
        return BadUse(
            f"this cluster is {cluster} itself, and no mirror of it",
            where="kafka_mirror_of",
            next="Leave kafka_mirror_of out here.",
        )
    return BadUse(
        f"this needs the log itself, in cluster {source}; cluster {cluster} has a mirror of it, "
        "which keeps no positions, and from which no command gets back",
        where="kafka_mirror_of",
        next="Run it on this machine with the servers of that cluster (--bootstrap-servers). If "
        "that cluster is lost for good, see docs/multi-site.md.",
    )
