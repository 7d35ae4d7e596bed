"""`mirrorlog changed`: which blocks of a volume changed between two points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mirrorlog.adapters.http.access import HttpAccess, http_access
from mirrorlog.changed.ask import ask_kafka
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, check_format, in_object, render
from mirrorlog.changed.points import AnsweringClock, format_time
from mirrorlog.changed.remote import RemoteListing, remote_listing
from mirrorlog.cli.support.asked_points import AskedPoints, SinceOption, UntilOption
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.file_names import NameSource
from mirrorlog.cli.support.output import Output, write_pieces
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings
from mirrorlog.units import parse_duration_s, parse_size

app = typer.Typer()


@app.command()
def changed(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(help="Name of the volume.")],
    since: SinceOption = "origin",
    until: UntilOption = "now",
    output_format: Annotated[
        str | None,
        typer.Option("--format", help=f"Print in this format: {', '.join(FORMATS)}."),
    ] = None,
    offset: Annotated[str, typer.Option(help="Resume the listing at this byte.")] = "0",
    wait: Annotated[
        str, typer.Option(help="Wait this long, at most, for the log to reach the last point.")
    ] = "30s",
    node: Annotated[
        str | None,
        typer.Option(
            help="Ask this worker of the node over HTTP instead of reading Kafka.", metavar="URL"
        ),
    ] = None,
    files: Annotated[
        bool,
        typer.Option(
            "--files", help="List the files that the blocks belong to, and what is in no file."
        ),
    ] = False,
    primary: Annotated[
        str | None,
        typer.Option(
            help="With --files: read the names here, and not from the volume's primary: a file, a "
            "device, an NBD export; a secondary or a snapshot.",
            metavar="ADDRESS",
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="With --files: read the names from this site's secondary.")
    ] = None,
) -> None:
    """List the blocks of a volume that changed in a range.

    The range begins after the point --since and ends at the point --until. With --json, the
    listing is part of an object that names both.
    """
    call = invocation(context)
    as_json = call.output.json
    name = output_format or ("json" if as_json else "table")
    if files:
        check_format(name, ("json",) if as_json else FILE_FORMATS)
        _check_whole(node, offset)
    elif primary or site:
        raise BadUse("--primary and --site name where files are read", next="Add --files.")
    else:
        check_format(name, JSON_FORMATS if as_json else FORMATS)
    question = Question(volume, AskedPoints.of(since, until), parse_duration_s(wait))
    if files:
        source = NameSource(primary=primary, site=site)
        _print_files(call, question, source, name, in_an_object=as_json and output_format is None)
        return
    if node is None:
        offset_bytes = parse_size(offset)
        blocks = _ask_kafka(call.settings, question)
        answer = _as_listing(blocks, render(blocks, name, offset_bytes))
    else:
        access = http_access(call.settings, call.settings.node_http_token)
        answer = _ask_node(node, access, question, name, offset)
    _print_notes(call.output, question, answer, with_times=name != "table")
    if node is None and call.settings.kafka_mirror_of:
        call.output.print_note(
            f"as of the mirror's watermark: positions are those of cluster "
            f"{call.settings.kafka_mirror_of}, and its node has proved the log here through "
            f"{answer.until}"
        )
    pieces = answer.pieces
    if as_json and output_format is None:
        pieces = in_object(_fields(question, answer), pieces)
    write_pieces(pieces, quiet=name == "table" and call.output.quiet)


FILE_FORMATS = ("table", "json", "csv")
"""The formats of --files."""


@dataclass(frozen=True, slots=True)
class Question:
    """The question as it was asked. patience_s: how long to wait."""

    volume: str
    points: AskedPoints
    patience_s: float


def _ask_kafka(settings: Settings, question: Question) -> ChangedBlocks:
    points = question.points
    return ask_kafka(settings, question.volume, points.since, points.until, question.patience_s)


def _as_listing(blocks: ChangedBlocks, pieces: Iterable[str]) -> RemoteListing:
    began_us = blocks.asked.volume_began_us
    return RemoteListing(
        since=blocks.since,
        until=blocks.until,
        volume_began_at=None if began_us is None else format_time(began_us),
        pieces=iter(pieces),
        clock=blocks.asked.clock,
    )


def _check_whole(node: str | None, offset: str) -> None:
    """Raise BadUse for options that --files doesn't have."""
    if node is not None or parse_size(offset):
        raise BadUse(
            "--files names the files of a whole answer, which this machine reads from Kafka",
            next="Leave --node and --offset out.",
        )


def _print_files(
    call: Invocation,
    question: Question,
    source: NameSource,
    output_format: str,
    *,
    in_an_object: bool,
) -> None:
    """Print the files that changed."""
    from mirrorlog.cli.support.changed_files import files_pieces

    blocks = _ask_kafka(call.settings, question)
    answer = _as_listing(blocks, ())
    _print_notes(call.output, question, answer, with_times=True)
    fields = _fields(question, answer) if in_an_object else None
    pieces = files_pieces(call, blocks, source, output_format, fields)
    write_pieces(pieces, quiet=output_format == "table" and call.output.quiet)


def _ask_node(
    node: str, access: HttpAccess, question: Question, output_format: str, offset: str
) -> RemoteListing:
    """Ask a node. It gets times as they were understood here, not in words."""
    points = question.points
    query = {
        "since": points.since_text,
        "until": points.until_text,
        **points.times,
        "format": output_format,
        "offset": offset,
        "wait": f"{question.patience_s:g}s",
    }
    return remote_listing(node, access, question.volume, query, question.patience_s)


def _print_notes(
    output: Output, question: Question, answer: RemoteListing, *, with_times: bool
) -> None:
    """Say on stderr which times were understood, and where the answer begins if that is later."""
    if with_times and question.points.times:
        output.print_note(f"asked for {question.points.times_in_words}")
    is_own = answer.clock == AnsweringClock.OWN
    if is_own:
        output.print_note(
            f"a recording was imported into volume {question.volume}: times are those of its "
            "writes, not of the import"
        )
    if answer.volume_began_at is not None and is_own:
        output.print_note(
            f"the history of volume {question.volume} begins at {answer.volume_began_at}, after "
            "the time that was asked for: the answer says nothing of what was written before"
        )
    elif answer.volume_began_at is not None:
        output.print_note(
            f"volume {question.volume} was created at {answer.volume_began_at}, after the time "
            "that was asked for: the answer begins there, and says nothing of what was written to "
            "its primary before"
        )


def _fields(question: Question, answer: RemoteListing) -> dict[str, Any]:
    """Return what --json says of the listing."""
    return {
        "schema_version": 1,
        "volume": question.volume,
        **question.points.as_fields(after=answer.since, through=answer.until),
        "volume_began_at": answer.volume_began_at,
        "clock": answer.clock,
    }
