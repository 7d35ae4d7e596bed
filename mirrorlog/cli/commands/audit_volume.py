"""`mirrorlog audit VOLUME`: who wrote what, where and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.changed.formats import check_format
from mirrorlog.cli.support.asked_points import AskedPoints, SinceOption, UntilOption
from mirrorlog.cli.support.audit_files import check_text_format, read_names
from mirrorlog.cli.support.audit_heat_view import print_heat
from mirrorlog.cli.support.audit_rows import ROW_FORMATS, write_rows
from mirrorlog.cli.support.audit_summary_view import print_summary
from mirrorlog.cli.support.audit_view import print_answer_notes, print_tally
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.file_names import NameSource
from mirrorlog.cli.support.row_progress import RowProgress
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.consumers.audit.ask import AuditAnswer, open_audit
from mirrorlog.consumers.audit.question import SHOWN_KINDS, AuditQuestion
from mirrorlog.consumers.audit.tally import AuditTally
from mirrorlog.errors import BadUse, ExitCode
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.definition import RowKind
from mirrorlog.ports.clock import SystemClock
from mirrorlog.units import parse_duration_s, parse_size

app = typer.Typer()


@app.command("volume")
def audit_volume(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(help="Name of the volume.")],
    since: SinceOption = "origin",
    until: UntilOption = "now",
    blocks: Annotated[
        str | None,
        typer.Option(help="Only what touches these blocks, both included.", metavar="A-B"),
    ] = None,
    offset: Annotated[
        str | None, typer.Option(help="Only what touches the bytes from here on.")
    ] = None,
    length: Annotated[str | None, typer.Option(help="With --offset: only so many bytes.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Only what this host sent. May be repeated.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only rows of this kind (docs/audit.md). May be repeated."),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option("--format", help=f"Print in this format: {', '.join(ROW_FORMATS)}."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write to this file, which appears once it is whole."),
    ] = None,
    summary: Annotated[
        bool,
        typer.Option(
            "--summary",
            help="Sum up instead: top hosts, hottest ranges, rewrite factor, working set an hour, "
            "and what a backup each hour would copy.",
        ),
    ] = False,
    heat: Annotated[
        bool,
        typer.Option(
            "--heat",
            help="Show writes by block range and time instead; with -o FILE.svg as a picture.",
        ),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Answer with what is kept if retention took a part."),
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Say for each row which files its bytes belong to.")
    ] = False,
    path: Annotated[
        str | None,
        typer.Option(
            help="Only what touches the bytes of this file, as its path is in the volume; with "
            "--files.",
            metavar="/PATH",
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            help="Read the names of files here, and not from the volume's primary: a file, a "
            "device, an NBD export; a secondary or a snapshot.",
            metavar="ADDRESS",
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="Read the names of files from this site's secondary.")
    ] = None,
    wait: Annotated[
        str, typer.Option(help="Give up if Kafka makes no progress for so long.")
    ] = "30s",
) -> None:
    """List each write of a volume, with its host, its times and its outcome.

    The range begins after the point --since and ends at the point --until. If a part of it isn't
    kept any more, the exit code is 3, unless --partial is given.
    """
    call = invocation(context)
    _check_shape(output_format, output, summary=summary, heat=heat)
    name = output_format or ("json" if call.output.json and output is None else "table")
    check_format(name, ROW_FORMATS)
    points = AskedPoints.of(since, until)
    question = AuditQuestion(
        volume=volume,
        since=points.since,
        until=points.until,
        blocks=blocks,
        offset=None if offset is None else parse_size(offset),
        length=None if length is None else parse_size(length),
        hosts=frozenset(host or ()),
        kinds=frozenset(map(_kind, kind)) if kind else frozenset(SHOWN_KINDS),
        partial=partial,
    )
    names = NameSource(primary=primary, site=site)
    change = None
    if files or path is not None:
        check_text_format(name)
        named = read_names(call, volume, names, path)
        question = replace(question, byte_ranges=named.byte_ranges)
        change = named.with_files(name)
    elif primary or site:
        raise BadUse("--primary and --site name where files are read", next="Add --files.")
    stopped = stop_flag()
    with open_audit(call.settings, question, parse_duration_s(wait)) as answer:
        print_answer_notes(call.output, points, answer)
        tally = AuditTally()
        is_list = not (summary or heat)
        batches = _read(call, answer, tally, stopped, shows_rows=output is None, is_list=is_list)
        if summary:
            print_summary(call.output, answer.volume, batches)
        elif heat:
            print_heat(call.output, answer.volume, batches, output)
        elif not write_rows(call.output, name, output, batches, change):
            return  # the reader of stdout has enough, and nothing is said of the rest
        print_tally(call.output, points, answer, tally, with_status=is_list)


def _check_shape(
    output_format: str | None, output: Path | None, *, summary: bool, heat: bool
) -> None:
    """Raise BadUse if the options name two shapes of the answer."""
    if summary and heat:
        raise BadUse("--summary and --heat are two answers", next="Ask for one of them.")
    if (summary or heat) and output_format is not None:
        raise BadUse("--format is for rows, and --summary and --heat list none")
    if summary and output is not None:
        raise BadUse("-o is for rows and pictures", next="Use --json, and redirect stdout.")


def _read(
    call: Invocation,
    answer: AuditAnswer,
    tally: AuditTally,
    stopped: Callable[[], bool],
    *,
    shows_rows: bool,
    is_list: bool,
) -> Iterator[HistoryBatch]:
    """Yield the answer's batches; count them, and show how far the reading came.

    A signal ends it with the exit code of an interrupt. shows_rows: text goes to stdout. is_list:
    the rows are listed, and need their statuses.
    """
    kept, clock = answer.span.kept, SystemClock()
    total = sum(part.through - part.after for part in kept)
    shown = shows_rows and is_list
    with RowProgress(call.output, total, clock.monotonic_s, shows_rows=shown) as progress:
        for batch in answer.batches(with_status=is_list):
            if stopped():
                raise typer.Exit(int(ExitCode.INTERRUPTED))
            tally.add(batch)
            yield batch
            done = sum(
                min(part.through, batch.through) - part.after
                for part in kept
                if part.after < batch.through
            )
            progress.update(done, tally.rows)


def _kind(text: str) -> RowKind:
    try:
        return RowKind(text)
    except ValueError:
        raise BadUse(
            f"there is no kind of row '{text[:40]}'",
            next=f"Kinds are {', '.join(RowKind)}.",
        ) from None
