"""`mirrorlog divergence`: what both sides have written since two copies of a volume parted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mirrorlog.changed.ask import query_ports
from mirrorlog.changed.divergence import DivergedSide, Divergence, WrittenRun, read_divergence
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.mirror_options import at_source
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.domain.volumes import Volume
from mirrorlog.units import format_count, format_size, parse_duration_s

app = typer.Typer()
_COLUMNS = (
    Column("SIDE"),
    Column("OFFSET", right=True),
    Column("LENGTH", right=True),
    Column("FIRST WRITE"),
    Column("LAST WRITE"),
    Column("HOSTS", wraps=True),
)


@app.command()
def divergence(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    promotion: Annotated[
        int | None,
        typer.Option(
            metavar="POSITION", help="The promotion at which the copies parted. Default: the last."
        ),
    ] = None,
    timeout: Annotated[str, typer.Option(help="Wait this long for Kafka.")] = "30s",
) -> None:
    """List what the hosts of both sides wrote since two copies of a volume parted.

    The former side is that of the primary before the promotion. What its host has left unpublished
    isn't in the list yet: `rejoin`, or `host recover` there, publishes it.
    """
    call = at_source(invocation(context), or_mirror=True)
    patience_s = parse_duration_s(timeout)
    with query_ports(call.settings, patience_s) as ports:
        difference = read_divergence(name, promotion, ports, patience_s)
    call.output.print_json(divergence_fields(difference))
    parted = difference.promotion.parted_position
    call.output.print_text(
        f"volume {name}: the copies parted behind position {parted}; site "
        f"{difference.promotion.site} was promoted at position {difference.promotion.position}, "
        f"{format_time(difference.promotion.at_us)}"
    )
    print_table(call.output, _COLUMNS, _rows(difference))
    both = len(difference.former.blocks & difference.current.blocks)
    call.output.print_text(
        f"former {difference.former.primary}: {_counted(difference.volume, difference.former)}; "
        f"current {difference.current.primary}: {_counted(difference.volume, difference.current)}; "
        f"{format_count(both, 'block')} on both sides"
    )


def divergence_fields(difference: Divergence) -> dict[str, Any]:
    """Return the divergence as JSON has it."""
    return {
        "schema_version": 1,
        "volume": difference.volume.volume,
        "promotion_position": difference.promotion.position,
        "parted_position": difference.promotion.parted_position,
        "through_position": difference.through,
        "promoted_at": format_time(difference.promotion.at_us),
        "site": difference.promotion.site,
        "blocks_on_both": len(difference.former.blocks & difference.current.blocks),
        "former": _side_fields(difference.volume, difference.former),
        "current": _side_fields(difference.volume, difference.current),
    }


def _side_fields(volume: Volume, side: DivergedSide) -> dict[str, Any]:
    return {
        "primary": side.primary,
        "generation": side.generation,
        "blocks": len(side.blocks),
        "bytes": volume.bytes_of(len(side.blocks)),
        "commands": side.commands,
        "runs": [_run_fields(volume, run) for run in side.runs()],
    }


def _run_fields(volume: Volume, run: WrittenRun) -> dict[str, Any]:
    start, length = volume.byte_range(first=run.first_block, count=run.blocks)
    return {
        "start": start,
        "length": length,
        "first_write_at": format_time(run.first_at_us),
        "last_write_at": format_time(run.last_at_us),
        "hosts": list(run.hosts),
    }


def _rows(difference: Divergence) -> Iterator[tuple[str, ...]]:
    for label, side in (("former", difference.former), ("current", difference.current)):
        for run in side.runs():
            fields = _run_fields(difference.volume, run)
            yield (
                label,
                str(fields["start"]),
                str(fields["length"]),
                str(fields["first_write_at"]),
                str(fields["last_write_at"]),
                ", ".join(run.hosts),
            )


def _counted(volume: Volume, side: DivergedSide) -> str:
    blocks = len(side.blocks)
    return f"{format_count(blocks, 'block')} ({format_size(volume.bytes_of(blocks))})"
