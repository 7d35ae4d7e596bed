"""`mirrorlog backup check`: what of a repository is damaged, and which points that takes along."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.repository_points import FromRepositoryOption, no_points
from mirrorlog.consumers.backup.repository.check import PointDamage, VolumeCheck, check_volume
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.errors import StateDamaged
from mirrorlog.units import format_count, format_size, is_or_are

app = typer.Typer()

_MOST_RANGES = 3


@app.command()
def check(
    context: typer.Context,
    repo: FromRepositoryOption,
    name: Annotated[
        str | None, typer.Argument(metavar="[VOLUME]", help="Without one: all volumes.")
    ] = None,
    read_data: Annotated[
        bool,
        typer.Option("--read-data", help="Read all images, and compare them with their digests."),
    ] = False,
) -> None:
    """Check the points of a repository. Exit 1 if something is damaged. Kafka isn't asked.

    Manifests, the order of images, their ids and sizes are checked; with --read-data every byte.
    Damage is named with the points that it affects: all others are sound.
    """
    call = invocation(context)
    with open_repository(call.settings, repo) as repository:
        where = repository.store.where
        names = repository.volumes() if name is None else (name,)
        checked = [check_volume(repository, volume, read_data=read_data) for volume in names]
    if name is not None and not (checked[0].sound or checked[0].damages):
        raise no_points(name, where)
    call.output.print_json(
        {
            "schema_version": 1,
            "repository": where,
            "read_data": read_data,
            "volumes": [_fields(volume) for volume in checked],
        }
    )
    for volume in checked:
        _print(call, volume)
    affected = [f"{one.volume} {point}" for one in checked for point in one.affected]
    damages = sum(len(volume.damages) for volume in checked)
    if damages:
        raise StateDamaged(
            f"the repository is damaged in {format_count(damages, 'place')}; points that can't be "
            f"trusted as a whole: {', '.join(affected) or 'none'}",
            where=where,
            next="All other points are sound. Take a new one: it stands on none that is damaged. "
            "Then remove these (`mirrorlog backup drop`).",
        )


def _fields(checked: VolumeCheck) -> dict[str, Any]:
    return {
        "volume": checked.volume,
        "sound": list(checked.sound),
        "damages": [asdict(damage) for damage in checked.damages],
        "affected": list(checked.affected),
        "leftovers": list(checked.leftovers),
    }


def _print(call: Invocation, checked: VolumeCheck) -> None:
    for damage in checked.damages:
        call.output.print_text(f"{checked.volume}: point {damage.point}: {_damage_text(damage)}")
    sound, leftovers = len(checked.sound), len(checked.leftovers)
    text = f"{format_count(sound, 'point')} {is_or_are(sound)} sound"
    if leftovers:
        text += f"; {format_count(leftovers, 'file')} {is_or_are(leftovers)} left over"
    call.output.print_text(f"{checked.volume}: {text}")


def _damage_text(damage: PointDamage) -> str:
    """Return a damage for people: what, where in the volume, and which points it affects."""
    text = damage.what
    if damage.ranges:
        shown = [
            f"{format_size(end - first)} from byte {first} on"
            for first, end in damage.ranges[:_MOST_RANGES]
        ]
        more = len(damage.ranges) - _MOST_RANGES
        text += f" (in the volume: {', '.join(shown)}{f' and {more} more' if more > 0 else ''})"
    return f"{text}; affects {', '.join(damage.affected) or 'no point'}"
