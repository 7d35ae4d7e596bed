"""`mirrorlog backup list`: the points of a repository."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.backup_view import point_fields
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.repository_points import FromRepositoryOption, no_points
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.units import format_size

app = typer.Typer()

_COLUMNS: Final = (
    Column("VOLUME"),
    Column("POINT"),
    Column("AS OF"),
    Column("POSITION", right=True),
    Column("CONSISTENT"),
    Column("SIZE", right=True),
    Column("HOLDS", right=True),
    Column("STORED", right=True),
    Column("STANDS ON"),
    Column("SOURCE", wraps=True),
)


@app.command(name="list")
def list_(
    context: typer.Context,
    repo: FromRepositoryOption,
    name: Annotated[
        str | None, typer.Argument(metavar="[VOLUME]", help="Without one: all volumes.")
    ] = None,
) -> None:
    """List the points of a repository, the oldest first. Kafka isn't asked.

    HOLDS is what an image holds of the volume itself; the rest is in the images that it stands on.
    """
    call = invocation(context)
    with open_repository(call.settings, repo) as repository:
        names = repository.volumes() if name is None else (name,)
        catalogs = [repository.catalog(volume) for volume in names]
        where, repository_id = repository.store.where, repository.repository_id
    if name is not None and not (catalogs[0].points or catalogs[0].unreadable):
        raise no_points(name, where)
    call.output.print_json(
        {
            "schema_version": 1,
            "repository": where,
            "repository_id": repository_id,
            "points": [
                _fields(catalog, record) for catalog in catalogs for record in catalog.points
            ],
            "unreadable": [
                {"volume": catalog.volume, "point": point, "what": error.what}
                for catalog in catalogs
                for point, error in catalog.unreadable.items()
            ],
        }
    )
    rows = [_row(record) for catalog in catalogs for record in catalog.points]
    print_table(call.output, _COLUMNS, rows)
    for catalog in catalogs:
        for point, error in catalog.unreadable.items():
            call.output.print_note(
                f"warning: {catalog.volume}: point {point} isn't listed: {error.what}"
            )


def _fields(catalog: VolumeCatalog, record: PointRecord) -> dict[str, Any]:
    """Return what --json says of a point, with the names of the images that it needs."""
    chain: list[str] = []
    name: str | None = record.point
    while name is not None and name in catalog.records and name not in chain:
        chain.append(name)
        name = catalog.records[name].image.base
    return {**point_fields(record.manifest, record.image), "chain": chain}


def _row(record: PointRecord) -> tuple[str, ...]:
    manifest, image = record.manifest, record.image
    at = None if manifest.at_us is None else format_time(manifest.at_us)
    return (
        manifest.volume,
        manifest.point,
        at or "unknown",
        str(manifest.position.position),
        "yes" if manifest.position.is_consistent else "NO",
        format_size(manifest.size_bytes),
        format_size(image.data_bytes),
        format_size(image.stored_bytes),
        image.base or "-",
        manifest.source,
    )
