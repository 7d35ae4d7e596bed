"""`mirrorlog sql`: questions in SQL over archive and topic."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer

from mirrorlog.changed.formats import check_format
from mirrorlog.changed.points import AtTime
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.cli.support.changelog import read_changelog
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.output import discard_the_rest
from mirrorlog.cli.support.tables import Column, print_table, table_lines
from mirrorlog.consumers.audit.output_file import whole_file
from mirrorlog.consumers.sql.ask import ask_sql
from mirrorlog.consumers.sql.database import query_failed
from mirrorlog.consumers.sql.question import SqlQuestion
from mirrorlog.consumers.sql.result_text import csv_lines, json_lines, table_cells
from mirrorlog.errors import BadUse
from mirrorlog.extras import require_module
from mirrorlog.ports.clock import SystemClock
from mirrorlog.units import parse_size

app = typer.Typer()

_FORMATS: Final = ("table", "json", "csv", "parquet")
_ROWS: Final = 10_000


@app.command()
def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="One SELECT.", metavar="QUERY")],
    output_format: Annotated[
        str | None,
        typer.Option("--format", help=f"Print in this format: {', '.join(_FORMATS)}."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write the result to this file."),
    ] = None,
    volumes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Read rows only of volumes whose names match. Repeatable."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Read only rows that were appended at this time or later."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Read only rows appended at this time or before."),
    ] = None,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="The memory that the query may take.")
    ] = "1GiB",
) -> None:
    """Ask in SQL (DuckDB's) what hosts wrote, over archive and topic.

    The views: `writes` and `history` (the columns of `audit`; `history` has barriers and the like,
    too), `volumes`, `sites`, `records`; writes_at('VOLUME', BYTE) is a table of the writes of a
    byte. Nothing can be changed, and no other file be read.
    """
    call = invocation(context)
    name = output_format or ("parquet" if _is_parquet(output) else None)
    name = name or ("json" if call.output.json else "table")
    check_format(name, _FORMATS)
    if name == "parquet" and output is None:
        raise BadUse("Parquet goes to a file", next="Name one with -o.")
    question = SqlQuestion(
        query=query,
        volumes=tuple(volumes or ()),
        since_us=_time(since, "--since"),
        until_us=_time(until, "--until"),
        memory_bytes=parse_size(memory),
    )

    def note_missing(partition: int, positions: tuple[int, int]) -> None:
        call.output.print_note(
            f"partition {partition}: positions {positions[0] + 1} to {positions[1]} aren't kept "
            "any more, and their rows are missing"
        )

    with ask_sql(
        call.settings,
        question,
        lambda partition: read_changelog(call.settings, partition)[0],
        note_missing,
    ) as (database, result):
        try:
            _print(call, result, name, output)
        except database.error_type as error:
            raise query_failed(error) from error


def _is_parquet(output: Path | None) -> bool:
    return output is not None and output.suffix == ".parquet"


def _time(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    point = understand_point(text, SystemClock().now_us())
    if not isinstance(point, AtTime):
        raise BadUse(f"{option} takes a time", where=text, next="Positions go into the query.")
    return point.at_us


def _print(call: Invocation, result: Any, name: str, output: Path | None) -> None:
    if output is None:
        _write_rows(call, result, name, None)
        return
    with whole_file(output) as part:
        if name == "parquet":
            _write_parquet(result, part)
        else:
            _write_rows(call, result, name, part)


def _write_parquet(result: Any, path: Path) -> None:
    pq = require_module("pyarrow.parquet", extra="archive", purpose="Parquet")
    reader = result.fetch_record_batch(_ROWS)
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def _write_rows(call: Invocation, result: Any, name: str, path: Path | None) -> None:
    names = [column[0] for column in result.description]
    if name == "table":
        columns = [Column(title) for title in names]
        if path is None:
            print_table(call.output, columns, table_cells(result.fetchall()))
        else:
            lines = table_lines(columns, table_cells(result.fetchall()), None)
            path.write_text("\n".join(lines) + "\n", "utf-8")
    elif path is None:
        try:
            _write_lines(sys.stdout, names, result, name)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_the_rest(sys.stdout)
    else:
        with path.open("w", encoding="utf-8") as out:
            _write_lines(out, names, result, name)


def _write_lines(out: TextIO, names: Sequence[str], result: Any, name: str) -> None:
    if name == "csv":
        out.write(csv_lines([names]))
    while rows := result.fetchmany(_ROWS):
        out.write(json_lines(names, rows) if name == "json" else csv_lines(rows))
