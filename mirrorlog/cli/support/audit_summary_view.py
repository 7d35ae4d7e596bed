"""How `audit --summary` shows what a history amounts to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.tables import Column, print_fields, print_table
from mirrorlog.consumers.audit.summary import HistorySummary, SummaryFigures
from mirrorlog.domain.volumes import Volume
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.units import format_size

_TOP: Final = 10


def print_summary(output: Output, volume: Volume, batches: Iterable[HistoryBatch]) -> None:
    """Print the summary of the rows. Raise what the batches raise."""
    summary = HistorySummary(volume)
    for batch in batches:
        summary.add(batch)
    figures = summary.figures(top=_TOP)
    output.print_message("figures", _fields(volume, figures))
    if not output.json:
        _print_tables(output, figures)


def _fields(volume: Volume, figures: SummaryFigures) -> dict[str, Any]:
    """Return the figures as --json prints them."""
    hours = [
        {"at": format_time(hour.at_us), **{k: v for k, v in asdict(hour).items() if k != "at_us"}}
        for hour in figures.hours
    ]
    return {
        "schema_version": 1,
        "volume": volume.volume,
        "writes": figures.writes,
        "written_bytes": figures.written_bytes,
        "distinct_unit_bytes": figures.distinct_unit_bytes,
        "distinct_bytes": figures.distinct_bytes,
        "rewrite_factor": figures.rewrite_factor,
        "dirty_bytes": figures.dirty_bytes,
        "hosts": [asdict(host) for host in figures.hosts],
        "ranges": [asdict(part) for part in figures.ranges],
        "hourly_backup_bytes": figures.hourly_backup_bytes,
        "median_hour_bytes": figures.median_hour_bytes,
        "hours_are_exact": figures.hours_are_exact,
        "hours": hours,
    }


def _print_tables(output: Output, figures: SummaryFigures) -> None:
    if not figures.writes:
        output.print_text("no writes")
        return
    factor = figures.rewrite_factor
    largest = figures.largest_hour
    assert factor is not None
    assert largest is not None
    about = "" if figures.hours_are_exact else "at most "
    print_fields(
        output,
        [
            ("writes", f"{figures.writes:,} of {format_size(figures.written_bytes)}"),
            (
                "distinct",
                f"{format_size(figures.distinct_bytes)} (units of {figures.distinct_unit_bytes} B)"
                f"; in blocks {format_size(figures.dirty_bytes)}",
            ),
            ("rewrite factor", f"{factor:.2f}"),
            (
                "working set an hour",
                f"{about}{format_size(figures.median_hour_bytes or 0)} in the median; "
                f"hours with writes: {len(figures.hours)}; the largest, from "
                f"{format_time(largest.at_us)}, {about}{format_size(largest.dirty_bytes)}",
            ),
            (
                "backup each hour",
                f"{about}{format_size(figures.hourly_backup_bytes)} copied in all of them",
            ),
        ],
    )
    output.print_text("")
    columns = (
        Column("HOST", wraps=True),
        Column("WRITES", right=True),
        Column("BYTES", right=True),
    )
    print_table(
        output,
        columns,
        [
            (host.host or "others", f"{host.writes:,}", format_size(host.written_bytes))
            for host in figures.hosts
        ],
    )
    output.print_text("")
    range_columns = (
        Column("HOTTEST RANGE", right=True),
        Column("LENGTH", right=True),
        Column("WRITES", right=True),
        Column("BYTES", right=True),
    )
    print_table(
        output,
        range_columns,
        [
            (
                str(part.offset),
                format_size(part.length),
                f"{part.writes:,}",
                format_size(part.written_bytes),
            )
            for part in figures.ranges
        ],
    )
