"""Import one source: check it, publish it, wait for the node, and print the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.changed.points import format_time
from mirrorlog.cli.importing.options import ImportOptions
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.describing import publish_changed
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.sending import newest_position
from mirrorlog.domain.commands import IMPORTED, StatusCode
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.importers import (
    AddressRange,
    ImportBatch,
    ImportCounts,
    ImportSession,
    ImportSource,
    PublishedImport,
    SessionStatuses,
    as_regular_files,
    import_batches,
    volume_range,
)
from mirrorlog.settings import Settings
from mirrorlog.units import format_size, parse_duration_s

_PROGRESS_S: Final = 1.0
OpenSource: TypeAlias = Callable[[Sequence[Path], AddressRange], ImportSource]
"""Returns the source in the files. The span is the volume's range in the source's addresses."""


def run_import(
    call: Invocation,
    kind: str,
    name: str,
    files: Sequence[Path],
    open_source: OpenSource,
    options: ImportOptions,
) -> None:
    """Import the source in `files` into the volume `name`.

    1. Read the whole source, and check it against the volume. If anything is wrong, nothing has
       been published.
    2. If its changes have times of their own, say in the volume's description since when. Then
       read it again, and publish it. So whoever reads one of its commands knows of the times.
    3. Wait for the node's statuses, if the options ask for it.

    kind: the name of the import command.
    Errors: BadUse and BadInput, which say where; KafkaFailed; BadInput if the node refuses a
    command.
    """
    terms = options.terms()
    patience_s = None if options.wait is None else parse_duration_s(options.wait)
    volume = find_volume(call.settings, name)
    if volume.is_retired:
        where = f"volume {name}, position {volume.described_position}"
        raise BadUse("the volume is retired", where=where, next="Create a new one.")
    now_us, max_extents = SystemClock().now_us(), call.settings.host_batch_extents
    planned, published, answers = ImportCounts(), None, None
    with as_regular_files(files) as copies, _naming(dict(zip(copies, files, strict=True))):
        source = open_source(copies, volume_range(volume, terms))

        def read(tally: ImportCounts) -> Iterator[ImportBatch]:
            return import_batches(
                source, volume, terms, now_us=now_us, max_extents=max_extents, counts=tally
            )

        for _ in read(planned):  # 1
            pass
        session = _ImportRun(call, volume, kind, options.host)
        if planned.extents and not options.dry_run:
            session.volume = _described(call.settings, volume, planned.recorded_since_us)
            published, answers = session.run(
                _unchanged(read, planned), str(files[0]), patience_s
            )  # 2, 3
    fields = _result_fields(session, options, source.warnings, planned, published, answers)
    _print_result(call, session, fields)
    if answers is not None and fields["refused"]:
        refusals = "; ".join(answers.refusals)[:500].rstrip(".")
        raise BadInput(
            f"the node refused {fields['refused']} of the commands: {refusals}",
            where=f"volume {session.volume.volume}, session {session.id}",
            next="docs/statuses.md explains each reason. What lies inside the volume is recorded.",
        )


def _described(settings: Settings, volume: Volume, since_us: int | None) -> Volume:
    """Return the volume with a history of its own times since `since_us`, or since an earlier one.

    None: the import has no times of its own, and the description stays. Raise KafkaFailed.
    """

    def has_times(described: Volume) -> bool:
        known_us = described.recorded_since_us
        return since_us is None or (known_us is not None and known_us <= since_us)

    if has_times(volume):
        return volume
    return publish_changed(
        settings,
        volume,
        lambda described: replace(described, recorded_since_us=since_us),
        has_times,
    )


@contextmanager
def _naming(names: dict[Path, Path]) -> Iterator[None]:
    """Let errors name the files as the user wrote them, not the copies of pipes.

    names: the user's file by the file that is read.
    """
    try:
        yield
    except BadInput as error:
        where = error.where
        for copy, name in names.items():
            where = where.replace(
                str(copy), "the standard input" if str(name) == "-" else str(name)
            )
        raise BadInput(error.what, where=where, next=error.next) from error


def _unchanged(
    read: Callable[[ImportCounts], Iterator[ImportBatch]], planned: ImportCounts
) -> Iterator[ImportBatch]:
    """Read the source a second time. BadInput, at the end, if it isn't what the first pass read."""
    tally = ImportCounts()
    yield from read(tally)
    if tally != planned:
        raise BadInput(
            "the source changed while it was imported",
            next="Import it again when nobody writes to it.",
        )


class _ImportRun:
    """The session of one import, and its Kafka clients while it runs."""

    def __init__(self, call: Invocation, volume: Volume, kind: str, host: str | None) -> None:
        self.id = call.settings.new_session()
        self.host = host or f"{IMPORTED}{kind}:{self.id[:8]}"
        self.volume, self.kind = volume, kind
        self._call, self._clock = call, SystemClock()
        self._printed_at_s = self._clock.monotonic_s()

    def run(
        self, contents: Iterator[ImportBatch], file: str, patience_s: float | None
    ) -> tuple[PublishedImport, SessionStatuses | None]:
        """Publish the import. Wait up to `patience_s`, unless it is None, for the node's statuses.

        file: the source's name, for the note that the commands carry.
        """
        client, topics = self._call.settings.kafka_client(), self._call.settings.topics
        answers = None
        with ExitStack() as stack:
            publisher = KafkaPublisher(client)
            stack.callback(publisher.close)
            if patience_s is not None:
                admin, reader = KafkaAdmin(client), KafkaReader(client)
                stack.callback(admin.close)
                stack.callback(reader.close)
                answers = SessionStatuses(reader, self.volume, self.id)
                answers.start(admin, topics.status)
            self._call.output.print_message(
                "session", {"session": self.id, "host": self.host, "volume": self.volume.volume}
            )
            session = ImportSession(
                publisher,
                self.volume,
                topic=topics.commands,
                host=self.host,
                session=self.id,
                clock=self._clock,
                acknowledged_position=self._known_position(),
            )
            note = f"import of {self.kind} {file}"[:200]
            try:
                published = session.publish(contents, note, self._print_progress)
            except BaseException:
                self._print_cut_off()
                raise
            if answers is not None and patience_s is not None:
                answers.wait(published.commands, patience_s, self._clock)
        return published, answers

    def _known_position(self) -> int | None:
        """Return a position that is acknowledged now, for the first command; None without a key."""
        settings = self._call.settings
        if not settings.host_key:
            return None
        with closing(KafkaAdmin(settings.kafka_client())) as admin:
            return newest_position(admin, settings.topics.commands, self.volume.partition)

    def _print_cut_off(self) -> None:
        self._call.output.print_text(
            f"The import was cut off, and its session {self.id} may stay open. While it is open, "
            "no site calls the volume consistent. Import again, which only adds what was missing; "
            f"then `mirrorlog command send {self.volume.volume} --close-session {self.id}`."
        )

    def _print_progress(self, extents: int) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._printed_at_s >= _PROGRESS_S:
            self._printed_at_s = now_s
            self._call.output.print_message("progress", {"extents": extents})


def _result_fields(
    session: _ImportRun,
    options: ImportOptions,
    doubts: Sequence[str],
    tally: ImportCounts,
    published: PublishedImport | None,
    answers: SessionStatuses | None,
) -> dict[str, Any]:
    """Return the fields of the `result` message.

    doubts: what the source took for dirty without certainty. published, answers: None if nothing
    was published, or no status was waited for.
    """
    statuses = (
        None if answers is None else {str(code): count for code, count in answers.counts.items()}
    )
    return {
        "volume": session.volume.volume,
        "kind": session.kind,
        "dry_run": options.dry_run,
        "session": session.id if published else None,
        "host": session.host if published else None,
        **{name: count for name, count in asdict(tally).items() if name != "recorded_since_us"},
        "recorded_since": (
            None if tally.recorded_since_us is None else format_time(tally.recorded_since_us)
        ),
        # With the commands that open and close the session.
        "commands": tally.commands + 2 if tally.extents else 0,
        "first_position": published.first_position if published else None,
        "last_position": published.last_position if published else None,
        "statuses": statuses,
        "refused": None if answers is None else answers.counts[StatusCode.REJECTED],
        "doubts": list(doubts),
    }


def _print_result(call: Invocation, session: _ImportRun, fields: dict[str, Any]) -> None:
    for doubt in fields["doubts"]:
        call.output.print_text(f"In doubt: {doubt}.")
    call.output.print_message("result", {"schema_version": 1, **fields})
    positions = (
        f"positions {fields['first_position']} to {fields['last_position']}"
        if fields["first_position"] is not None
        else "nothing was published"
    )
    outside = (
        f", {fields['outside_extents']} outside it left out" if fields["outside_extents"] else ""
    )
    call.output.print_text(
        f"{fields['extents']} extents ({format_size(fields['bytes'])}) in {fields['commands']} "
        f"commands for volume {session.volume.volume}{outside}: {positions}"
    )
