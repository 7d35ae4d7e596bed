"""The options of commands that can read the log from a mirror."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.errors import BadUse

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
