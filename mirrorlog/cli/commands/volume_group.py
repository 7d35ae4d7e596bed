"""`mirrorlog volume group`: the consistency group of a volume (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Annotated

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.describing import publish_changed
from mirrorlog.cli.support.lookup import load_catalog
from mirrorlog.domain.volumes import Volume, check_group_name, members_of
from mirrorlog.errors import BadUse


def group(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    group_name: Annotated[
        str | None,
        typer.Argument(
            metavar="[GROUP]", help="Put the volume into this group. Without it, show the group."
        ),
    ] = None,
    leave: Annotated[
        bool, typer.Option("--leave", help="Take the volume out of its group.")
    ] = False,
) -> None:
    """Show or set the consistency group of a volume.

    Sites copy the volumes of one group as of one common point, for example a database's data and
    its log. They need --consistency crash for that, and hosts with snapshots.
    """
    call = invocation(context)
    if leave and group_name is not None:
        raise BadUse(
            "a volume can't join a group and leave its group at once",
            where=f"volume {name}",
            next="Name the group, or give --leave.",
        )
    with closing(load_catalog(call.settings)) as catalog:
        volume, volumes = catalog.volume_named(name), dict(catalog)
    wanted = None if leave else volume.group if group_name is None else check_group_name(group_name)
    if wanted != volume.group:
        if volume.is_retired:
            raise BadUse(
                "the volume is retired",
                where=f"volume {name}, position {volume.described_position}",
                next="A retired volume counts in no group.",
            )
        volume = publish_changed(
            call.settings,
            volume,
            lambda described: replace(described, group=wanted),
            lambda described: described.group == wanted,
        )
        volumes[name] = volume
    members = [] if volume.group is None else members_of(volume.group, volumes.values())
    call.output.print_json(
        {
            "schema_version": 1,
            "volume": name,
            "group": volume.group,
            "members": [member.volume for member in members],
        }
    )
    call.output.print_text(in_words(volume, members))


def in_words(volume: Volume, members: Sequence[Volume]) -> str:
    """Return the group for people, and which members can't have snapshots together."""
    if volume.group is None:
        return f"volume {volume.volume} is in no group"
    names = ", ".join(member.volume for member in members)
    text = f"volume {volume.volume} is in group {volume.group}: {names}"
    if shared := [member.volume for member in members if member.shared]:
        without = ", ".join(shared)
        text += f". No common point is possible with {without}: a shared volume has no snapshots"
    return text
