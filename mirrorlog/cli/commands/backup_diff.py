"""`mirrorlog backup diff`: in which blocks two points of a volume differ."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, check_format, in_object, render
from mirrorlog.cli.support.byte_progress import ByteProgress
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.output import write_pieces
from mirrorlog.cli.support.point_at import chosen_point
from mirrorlog.cli.support.repository_points import FromRepositoryOption
from mirrorlog.consumers.backup.repository.catalog import PointRecord
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.repository.point_diff import (
    ChainOfPoint,
    PointDiff,
    differing_blocks,
)
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.units import format_size

app = typer.Typer()

_WHICH = "A point by its name, `newest`, or a time."


@app.command()
def diff(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    first: Annotated[str, typer.Argument(metavar="POINT", help=_WHICH)],
    second: Annotated[str, typer.Argument(metavar="POINT", help=_WHICH)],
    repo: FromRepositoryOption,
    output_format: Annotated[
        str | None,
        typer.Option("--format", help=f"Print in this format: {', '.join(FORMATS)}."),
    ] = None,
) -> None:
    """List the blocks of the second point that aren't as in the first. Kafka isn't asked.

    The contents are compared, where the two don't share an image. The formats are those of
    `mirrorlog changed`. Who wrote what in between, `mirrorlog audit` tells.
    """
    call = invocation(context)
    listing = output_format or ("json" if call.output.json else "table")
    check_format(listing, JSON_FORMATS if call.output.json else FORMATS)
    now_us = SystemClock().now_us()
    with ExitStack() as stack:
        repository = stack.enter_context(open_repository(call.settings, repo))
        catalog = repository.catalog(name)
        records = [chosen_point(catalog, text, now_us=now_us) for text in (first, second)]
        before, after = (
            ChainOfPoint(
                stack.enter_context(open_point(repository, catalog, record.point)),
                catalog.chain(record.point),
            )
            for record in records
        )
        progress = stack.enter_context(
            ByteProgress(call.output, SystemClock().monotonic_s, "compared")
        )
        difference = differing_blocks(
            before,
            after,
            _block_size(records),
            on_begin=progress.begin,
            on_read=progress.advance,
        )
    _print(call, records, difference, listing, in_an_object=output_format is None)


def _block_size(records: list[PointRecord]) -> int:
    sizes = {record.manifest.block_size for record in records}
    if len(sizes) > 1:
        raise BadUse(
            "the two points are of volumes with blocks of other sizes",
            where=", ".join(record.point for record in records),
            next="Compare points of one generation of the volume.",
        )
    return sizes.pop()


def _print(
    call: Invocation,
    records: list[PointRecord],
    difference: PointDiff,
    listing: str,
    *,
    in_an_object: bool,
) -> None:
    """Print the listing as `mirrorlog changed` does. in_an_object: with what it is about."""
    before, after = (record.manifest for record in records)
    volume = after.as_volume()
    answer = ChangedBlocks(
        volume=volume,
        since=before.position.position,
        until=after.position.position,
        changed=difference.changed,
        zeroed=difference.zeroed,
        hosts=(),
        first_write_at_us=None,
        last_write_at_us=None,
        writes=0,
    )
    if before.size_bytes != after.size_bytes:
        call.output.print_note(
            f"the volume's size changed from {format_size(before.size_bytes)} to "
            f"{format_size(after.size_bytes)}"
        )
    pieces = render(answer, listing)
    if call.output.json and in_an_object:
        fields = {
            "schema_version": 1,
            "volume": after.volume,
            "first": {"point": before.point, "position": before.position.position},
            "second": {"point": after.point, "position": after.position.position},
            "changed_blocks": len(difference.changed),
            "changed_bytes": volume.bytes_of(len(difference.changed)),
        }
        pieces = in_object(fields, pieces)
    write_pieces(pieces, quiet=call.output.quiet and listing == "table")
