"""`mirrorlog import`: tracking commands made from what others recorded of a volume, or keep of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import typer

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.changed.points import AtTime, parse_point
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.domain.commands import IMPORTED, StatusCode
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.importers import (
    Answers,
    Content,
    Published,
    Session,
    Source,
    Span,
    Tally,
    Terms,
    blktrace,
    commands,
    extent_list,
    fio_log,
    nbdinfo,
    qemu_map,
    rbd_diff,
    readable_twice,
    recording,
    span,
    thin_delta,
)
from mirrorlog.units import format_size, parse_duration_s, parse_size

app = typer.Typer(
    no_args_is_help=True,
    help="Track a volume from recordings and dirty maps of other tools (docs/import.md).",
)

_PROGRESS_S: Final = 1.0
Make = Callable[[Sequence[Path], Span], Source]
"""The source in these files, for a volume that lies there in its addresses."""

Name = Annotated[str, typer.Argument(metavar="VOLUME")]
File = Annotated[Path, typer.Argument(metavar="FILE|-", help="- is the standard input.")]
Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE|-…", help="Of each CPU, or the stream of all; - is stdin."),
]
Device = Annotated[
    str | None, typer.Option(help="Whose writes, as the recording calls it: 8-0, /dev/vdb, …")
]
DiscardZeroes = Annotated[
    bool,
    typer.Option(
        "--discard-zeroes",
        help="The device reads as zeros where it was discarded; else a discard is dirty.",
    ),
]
Partial = Annotated[
    bool,
    typer.Option("--partial", help="The map is of a part: the rest of the volume is unchanged."),
]
Began = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="When a recording's first write was, or since when a map counts; as `changed --since`.",
    ),
]
Shift = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="Added to the source's addresses; -1MiB for a partition there."
    ),
]
Clip = Annotated[
    bool, typer.Option("--clip", help="Leave out what lies outside the volume, and count it.")
]
HostName = Annotated[
    str | None, typer.Option("--host", help="Who wrote, for audits. Default: import:KIND:SESSION.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read and check everything, publish nothing.")
]
Wait = Annotated[
    str | None, typer.Option(metavar="DURATION", help="Wait so long for the node's answers.")
]


@dataclass(frozen=True, slots=True)
class Options:
    """What all kinds have in common, as it was written."""

    began: str | None
    offset_shift: str
    clip: bool
    host: str | None
    dry_run: bool
    wait: str | None
    partial: bool = False

    def terms(self) -> Terms:
        """How the source is held against its volume."""
        sign, size = (
            (-1, self.offset_shift[1:])
            if self.offset_shift.startswith("-")
            else (1, self.offset_shift)
        )
        began_us = None
        if self.began is not None:
            point = parse_point(self.began, SystemClock().now_us())
            if not isinstance(point, AtTime):
                raise BadUse(
                    f"'{self.began}' isn't a time", next="Write 2026-11-22T18:30:00Z or '2h ago'."
                )
            began_us = point.at_us
        return Terms(sign * parse_size(size), self.clip, self.partial, began_us)


def _recording(kind: str, help: str) -> None:
    @app.command(kind, help=help)
    def command(
        context: typer.Context,
        volume: Name,
        file: File,
        device: Device = None,
        discard_zeroes: DiscardZeroes = False,
        began: Began = None,
        offset_shift: Shift = "0",
        clip: Clip = False,
        host: HostName = None,
        dry_run: DryRun = False,
        wait: Wait = None,
    ) -> None:
        def make(files: Sequence[Path], _: Span) -> Source:
            if kind == "fio":
                return fio_log(files[0], device=device, discard_zeroes=discard_zeroes)
            return recording(kind, files[0], device=device, discard_zeroes=discard_zeroes)

        _import(
            context,
            kind,
            volume,
            [file],
            make,
            Options(began, offset_shift, clip, host, dry_run, wait),
        )


def _list_of_changes(kind: str, make: Make, help: str) -> None:
    @app.command(kind, help=help)
    def command(
        context: typer.Context,
        volume: Name,
        file: File,
        began: Began = None,
        offset_shift: Shift = "0",
        clip: Clip = False,
        host: HostName = None,
        dry_run: DryRun = False,
        wait: Wait = None,
    ) -> None:
        _import(
            context,
            kind,
            volume,
            [file],
            make,
            Options(began, offset_shift, clip, host, dry_run, wait),
        )


_recording("blkparse", "What blkparse(1) prints of a block trace.")
_recording("fio", "fio's I/O log (write_iolog), version 2 or 3.")
_recording("vscsi", "vscsiStats' binary trace.")
_recording("msr", "MSR Cambridge CSV.")
_recording("tencent", "Tencent block storage CSV.")
_recording("mirrorlog", "mirrorlog's own recordings (*.mltrace).")
_list_of_changes(
    "rbd-diff", lambda files, _: rbd_diff(files[0]), "rbd diff --from-snap SNAP --format json."
)
_list_of_changes(
    "thin-delta",
    lambda files, volume: thin_delta(files[0], volume),
    "thin_delta's XML, of two thin devices.",
)
_list_of_changes(
    "extentlist",
    lambda files, _: extent_list(files[0]),
    "Lines 'offset length type', as nbdkit reads them.",
)


@app.command("blktrace")
def import_blktrace(
    context: typer.Context,
    volume: Name,
    files: Files,
    device: Device = None,
    discard_zeroes: DiscardZeroes = False,
    began: Began = None,
    offset_shift: Shift = "0",
    clip: Clip = False,
    host: HostName = None,
    dry_run: DryRun = False,
    wait: Wait = None,
) -> None:
    """blktrace(8)'s binary files, or the stream of `blktrace -o -`."""

    def make(copies: Sequence[Path], lies: Span) -> Source:
        return blktrace(copies, lies, device=device, discard_zeroes=discard_zeroes)

    _import(
        context,
        "blktrace",
        volume,
        files,
        make,
        Options(began, offset_shift, clip, host, dry_run, wait),
    )


@app.command("qemu-map")
def import_qemu_map(
    context: typer.Context,
    volume: Name,
    file: File,
    layers: Annotated[
        int, typer.Option(min=1, help="What so many of the newest layers of the chain hold.")
    ] = 1,
    dirty_bitmap: Annotated[
        bool,
        typer.Option(
            "--dirty-bitmap",
            help="The map was made with x-dirty-bitmap: what it calls data is clean.",
        ),
    ] = False,
    partial: Partial = False,
    began: Began = None,
    offset_shift: Shift = "0",
    clip: Clip = False,
    host: HostName = None,
    dry_run: DryRun = False,
    wait: Wait = None,
) -> None:
    """qemu-img map --output=json, of an overlay or a dirty bitmap."""

    def make(files: Sequence[Path], _: Span) -> Source:
        return qemu_map(files[0], layers=layers, dirty_bitmap=dirty_bitmap)

    options = Options(began, offset_shift, clip, host, dry_run, wait, partial)
    _import(context, "qemu-map", volume, [file], make, options)


@app.command("nbdinfo")
def import_nbdinfo(
    context: typer.Context,
    volume: Name,
    file: File,
    partial: Partial = False,
    began: Began = None,
    offset_shift: Shift = "0",
    clip: Clip = False,
    host: HostName = None,
    dry_run: DryRun = False,
    wait: Wait = None,
) -> None:
    """nbdinfo --map=qemu:dirty-bitmap:NAME --json."""
    options = Options(began, offset_shift, clip, host, dry_run, wait, partial)
    _import(context, "nbdinfo", volume, [file], lambda files, _: nbdinfo(files[0]), options)


def _import(
    context: typer.Context,
    kind: str,
    name: str,
    files: Sequence[Path],
    make: Make,
    options: Options,
) -> None:
    """1. The whole source is read, and held against the volume: where anything is wrong, nothing was published.
    2. It is read again and published.
    3. The node's answers are waited for, where that was asked.
    """
    call, terms = invocation(context), options.terms()
    patience_s = None if options.wait is None else parse_duration_s(options.wait)
    volume = find_volume(call.settings, name)
    if volume.is_retired:
        where = f"volume {name}, position {volume.described_position}"
        raise BadUse("the volume is retired", where=where, next="Create a new one.")
    now_us, most = SystemClock().now_us(), call.settings.host_batch_extents
    tally, found, answers = Tally(), None, None
    with readable_twice(files) as copies, _naming(dict(zip(copies, files, strict=True))):
        source = make(copies, span(volume, terms))
        for _ in commands(source, volume, terms, now_us, most, tally):  # 1
            pass
        session = _Import(call, volume, kind, options.host)
        if tally.extents and not options.dry_run:
            said = _same_again(
                lambda again: commands(source, volume, terms, now_us, most, again), tally
            )
            found, answers = session.run(said, str(files[0]), patience_s)  # 2, 3
    _tell(call, session, options, source.doubts, tally, found, answers)


@contextmanager
def _naming(names: dict[Path, Path]) -> Iterator[None]:
    """Errors name the files as they were written on the command line, not the copies of pipes."""
    try:
        yield
    except BadInput as error:
        where = error.where
        for copy, name in names.items():
            where = where.replace(
                str(copy), "the standard input" if str(name) == "-" else str(name)
            )
        raise BadInput(error.what, where=where, next=error.next) from error


def _same_again(again: Callable[[Tally], Iterator[Content]], planned: Tally) -> Iterator[Content]:
    """The second pass. A source that says something else than before isn't taken for done."""
    tally = Tally()
    yield from again(tally)
    if tally != planned:
        raise BadInput(
            "the source changed while it was imported",
            next="Import it again when nobody writes to it.",
        )


class _Import:
    """One import's session, with its clients."""

    def __init__(self, call: Invocation, volume: Volume, kind: str, host: str | None) -> None:
        self.id = str(uuid4())
        self.host = host or f"{IMPORTED}{kind}:{self.id[:8]}"
        self.volume, self.kind = volume, kind
        self._call, self._clock = call, SystemClock()
        self._told_s = self._clock.monotonic_s()

    def run(
        self, said: Iterator[Content], file: str, patience_s: float | None
    ) -> tuple[Published, Answers | None]:
        """Publishes, and waits for the node's answers for `patience_s` where that isn't None."""
        client, topics = self._call.settings.kafka_client(), self._call.settings.topics
        answers = None
        with ExitStack() as stack:
            publisher = KafkaPublisher(client)
            stack.callback(publisher.close)
            if patience_s is not None:
                admin, reader = KafkaAdmin(client), KafkaReader(client)
                stack.callback(admin.close)
                stack.callback(reader.close)
                answers = Answers(reader, self.volume, self.id)
                answers.watch(admin, topics.status)
            self._call.output.print_message(
                "session", {"session": self.id, "host": self.host, "volume": self.volume.volume}
            )
            session = Session(
                publisher, topics.commands, self.volume, self.host, self.id, self._clock
            )
            try:
                found = session.publish(said, f"import of {self.kind} {file}"[:200], self._progress)
            except BaseException:
                self._call.output.print_text(
                    f"The import was cut off, and its session {self.id} may stay open: while it is, no site calls the volume "
                    "consistent. Import again, which changes nothing but what was missing; then "
                    f"`mirrorlog command send {self.volume.volume} --close-session {self.id}`."
                )
                raise
            if answers is not None and patience_s is not None:
                answers.wait(found.commands, patience_s, self._clock)
        return found, answers

    def _progress(self, extents: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._told_s >= _PROGRESS_S:
            self._told_s = now_s
            self._call.output.print_message("progress", {"extents": extents})


def _tell(
    call: Invocation,
    session: _Import,
    options: Options,
    doubts: Sequence[str],
    tally: Tally,
    found: Published | None,
    answers: Answers | None,
) -> None:
    """The result; BadInput where the node refused anything."""
    for doubt in doubts:
        call.output.print_text(f"In doubt: {doubt}.")
    refused = None if answers is None else answers.counts[StatusCode.REJECTED]
    fields: dict[str, Any] = {
        "volume": session.volume.volume,
        "kind": session.kind,
        "dry_run": options.dry_run,
        "session": session.id if found else None,
        "host": session.host if found else None,
        **asdict(tally),
        "commands": tally.commands + 2
        if tally.extents
        else 0,  # with the session's opening and its close
        "first_position": found.first_position if found else None,
        "last_position": found.last_position if found else None,
        "statuses": None
        if answers is None
        else {str(code): count for code, count in answers.counts.items()},
        "refused": refused,
        "doubts": list(doubts),
    }
    call.output.print_message("result", {"schema_version": 1, **fields})
    where = (
        f"positions {found.first_position} to {found.last_position}"
        if found
        else "nothing was published"
    )
    outside = f", {tally.outside_extents} outside it left out" if tally.outside_extents else ""
    call.output.print_text(
        f"{tally.extents} extents ({format_size(tally.bytes)}) in {fields['commands']} commands for volume "
        f"{session.volume.volume}{outside}: {where}"
    )
    if answers is not None and refused:
        raise BadInput(
            f"the node refused {refused} of the commands: {'; '.join(answers.refusals)[:500].rstrip('.')}",
            where=f"volume {session.volume.volume}, session {session.id}",
            next="docs/statuses.md explains each reason. What lies inside the volume is recorded.",
        )
