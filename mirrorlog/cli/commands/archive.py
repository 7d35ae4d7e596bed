"""`mirrorlog archive`: history goes to Parquet files before Kafka drops it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from mirrorlog.adapters.systemd import open_supervisor
from mirrorlog.archive.archive import Archive
from mirrorlog.archive.chains import Chain
from mirrorlog.archive.manifests import FileKind, Manifest
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.archive_trees import check_trees
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.metrics_option import MetricsOption, metrics_printer, with_metrics
from mirrorlog.cli.support.output import report_error
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.cli.support.tables import Column, print_table
from mirrorlog.consumers.archive.archiver import Written
from mirrorlog.consumers.archive.chain_check import CheckedTree
from mirrorlog.consumers.archive.verify import CheckedPartition, verify_archive
from mirrorlog.consumers.archive.wiring import (
    ArchiveCalls,
    ArchiveOptions,
    open_archive,
    release_retention,
    run_archiver,
)
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.processes.free_memory import (
    keep_memory_low,
    use_system_memory,
)
from mirrorlog.units import parse_duration_s

app = typer.Typer(
    no_args_is_help=True, help="Archive history in Parquet files, before Kafka drops it."
)

FROM_HELP = "A folder or s3://BUCKET/PREFIX. By default, the setting `archive`."
_LIST_COLUMNS = (
    *(Column(name, right=True) for name in ("PARTITION", "EPOCH", "AFTER", "THROUGH")),
    *(Column(name, right=True) for name in ("COMMANDS", "ROWS", "FILES", "BYTES")),
    Column("LAST APPENDED"),
    Column("MISSING", wraps=True),
)


@app.command()
def run(
    context: typer.Context,
    to: Annotated[str | None, typer.Option(metavar="ADDRESS", help=FROM_HELP)] = None,
    volumes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Make rows only of volumes whose names match. Repeatable. The commands of all "
            "volumes are archived in any case.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Archive what there is, and end.")] = False,
    every: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="The time between two rounds. By default 1h."),
    ] = None,
    accept_hole: Annotated[
        bool,
        typer.Option(
            "--accept-hole",
            help="Go on behind commands that Kafka dropped before they were archived. The archive "
            "says which are missing.",
        ),
    ] = False,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long Kafka keeps commands that are archived. What isn't archived stays in "
            "Kafka. The default is the setting `archive_keep_s`, a year.",
        ),
    ] = None,
    leave_retention: Annotated[
        bool,
        typer.Option(
            "--leave-retention",
            help="Leave the retention of the commands topic as it is. Kafka may then drop what "
            "isn't archived yet.",
        ),
    ] = False,
    no_merges: Annotated[
        bool,
        typer.Option(
            "--no-merges",
            help="Don't write the rows of every 64 ranges a second time, sorted together. That "
            "takes half of the rows' space, and questions for one byte are slower.",
        ),
    ] = False,
    metrics: MetricsOption = None,
    pid_file: DetachOption = None,
) -> None:
    """Archive the commands that the log has recorded, until stopped.

    Each position is archived exactly once, whenever the archiver is killed, and however many
    archivers run: a range of positions counts when its manifest is there. Meanwhile the commands
    topic keeps everything, and the archiver deletes from it what is archived and older than --keep.
    `archive off` gives the topic its own retention again.
    """
    if once and every is not None:
        raise BadUse("--once and --every contradict each other", next="Give one of them.")
    every_s = None if once else parse_duration_s(every or "1h")
    if every_s is not None and every_s < 1:
        raise BadUse("rounds are at least 1 s apart", where=f"--every {every}")
    if keep is not None and leave_retention:
        raise BadUse("--keep and --leave-retention contradict each other", next="Give one of them.")
    call = with_metrics(invocation(context, waits=True), metrics)
    keep_s = call.settings.archive_keep_s if keep is None else parse_duration_s(keep)
    tell_ready = detach(pid_file, call.output)
    supervisor = open_supervisor()
    keep_memory_low()
    options = ArchiveOptions(
        address=to or "",
        every_s=every_s,
        accepts_hole=accept_hole,
        keep_s=None if leave_retention else keep_s,
        volumes=tuple(volumes or ()),
        merges_rows=not no_merges,
    )

    def print_ready(where: str) -> None:
        call.output.print_message("ready", {"archive": where})
        call.output.print_text(f"archiving to {where}")
        tell_ready()
        supervisor.ready(f"archiving to {where}")

    def print_written(written: Written) -> None:
        _print_written(call, written)
        supervisor.tell(f"archiving to {to or call.settings.archive}")

    def print_error(error: MirrorlogError) -> None:
        _print_error(call, error)
        supervisor.tell(f"the next round tries again: {error.what}")

    signalled = stop_flag()
    use_system_memory()

    def stopped() -> bool:
        if signalled():
            supervisor.stopping()
        return signalled()

    run_archiver(
        call.settings,
        options,
        stopped=stopped,
        on_ready=print_ready,
        calls=ArchiveCalls(
            on_written=print_written,
            on_deleted=lambda partition, first: _print_deleted(call, partition, first),
            on_held=lambda had: _print_held(call, had),
            on_error=print_error,
            on_metrics=metrics_printer(call.output),
            on_alive=supervisor.alive,
        ),
    )


@app.command()
def off(
    context: typer.Context,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long Kafka keeps commands from now on, archived or not. The default is the "
            "setting `archive_keep_s`, a year.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Give the commands topic a retention of its own again. Stop the archivers first.

    From then on, Kafka drops commands by their age, whether they are archived or not.
    """
    call = invocation(context)
    keep_s = call.settings.archive_keep_s if keep is None else parse_duration_s(keep)
    topic = call.settings.topics.commands
    question = f"Topic {topic} drops commands that are older than {keep_s / 86400:g} days."
    if not is_confirmed(call, topic, question, yes=yes, dry_run=dry_run, kind="topic"):
        return
    release_retention(call.settings, keep_s)
    call.output.print_json({"schema_version": 1, "topic": topic, "keep_s": keep_s})
    call.output.print_text(f"topic {topic} keeps commands for {keep_s / 86400:g} days")


def _print_deleted(call: Invocation, partition: int, first: int) -> None:
    call.output.print_message("deleted", {"partition": partition, "first_kept": first})
    call.output.print_text(f"partition {partition}: Kafka keeps commands from position {first} on")


def _print_held(call: Invocation, had: Mapping[str, str | None]) -> None:
    call.output.print_message("held", {"settings_before": dict(had)})
    before = ", ".join(f"{name}={value}" for name, value in sorted(had.items()))
    call.output.print_text(f"the commands topic keeps what isn't archived; it had {before}")


def _print_error(call: Invocation, error: MirrorlogError) -> None:
    report_error(error, as_json=False, verbose=call.verbose)
    call.output.print_message("warning", {**error.as_message(), "message_type": "warning"})


def _print_written(call: Invocation, written: Written) -> None:
    fields = asdict(written)
    fields.pop("view")
    call.output.print_message("archived", fields)
    if written.manifests or not written.is_complete:
        call.output.print_text(
            f"partition {written.partition}: {written.commands} commands in {written.files} "
            f"files, {written.size_bytes} bytes; {written.waits_for}"
        )


@app.command(name="list")
def list_(
    context: typer.Context,
    archive: Annotated[
        str | None, typer.Option("--from", metavar="ADDRESS", help=FROM_HELP)
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="List every file, too.")] = False,
) -> None:
    """List what the archive holds, by partition and history. Kafka isn't asked."""
    call = invocation(context)
    with open_archive(call.settings, archive or "") as opened:
        chains = [chain for number in opened.partitions() for chain in opened.chains(number)]
        entries = [_chain_fields(chain) for chain in chains]
        if files:
            for entry, chain in zip(entries, chains, strict=True):
                entry["files"] = [
                    asdict(file) for manifest in chain.manifests for file in manifest.files
                ]
        where = opened.store.where
    call.output.print_json({"schema_version": 1, "archive": where, "histories": entries})
    rows = [_chain_row(chain, entry) for chain, entry in zip(chains, entries, strict=True)]
    print_table(call.output, _LIST_COLUMNS, rows)
    if files:
        for chain in chains:
            for manifest in chain.manifests:
                for file in manifest.files:
                    call.output.print_text(f"{file.name}  {file.size_bytes}")


def _sum_of(chain: Chain, kind: FileKind) -> int:
    return sum(file.rows for manifest in chain.manifests for file in manifest.files_of(kind))


def _holes(chain: Chain) -> list[Manifest]:
    return [manifest for manifest in chain.manifests if manifest.hole is not None]


def _last_appended(chain: Chain) -> str | None:
    times = [
        file.last_appended_at_us
        for file in chain.last.files
        if file.last_appended_at_us is not None
    ]
    return format_time(max(times)) if times else None


def _chain_fields(chain: Chain) -> dict[str, object]:
    manifests = list(chain.manifests)
    return {
        "partition": chain.first.partition,
        "history": asdict(chain.history),
        "after": chain.after,
        "through": chain.through,
        "commands": sum(manifest.commands for manifest in manifests),
        "rows": _sum_of(chain, FileKind.ROWS),
        "manifests": len(manifests),
        "size_bytes": sum(file.size_bytes for m in manifests for file in m.files),
        "last_appended_at": _last_appended(chain),
        "missing": [
            {"after": hole.after, "through": hole.through, "reason": hole.hole}
            for hole in _holes(chain)
        ],
    }


def _chain_row(chain: Chain, fields: Mapping[str, object]) -> tuple[str, ...]:
    """Return the row of a chain. fields: _chain_fields() of it."""
    holes = [f"{hole.after + 1} to {hole.through}" for hole in _holes(chain)]
    count = sum(len(manifest.files) for manifest in chain.manifests)
    return (
        str(fields["partition"]),
        str(chain.history.epoch),
        *(str(fields[name]) for name in ("after", "through", "commands", "rows")),
        str(count),
        str(fields["size_bytes"]),
        str(fields["last_appended_at"] or "unknown"),
        ", ".join(holes) or "none",
    )


@app.command()
def verify(
    context: typer.Context,
    archive: Annotated[
        str | None, typer.Option("--from", metavar="ADDRESS", help=FROM_HELP)
    ] = None,
) -> None:
    """Read the whole archive, and check it. Exit 4 at the first thing that is wrong.

    Checked are the chains of manifests, checksums, counts, order, and that no position is missing
    or there twice. If the setting `chain_dir` names trees of commands (`audit chain`), each
    archived command is compared with its leaf. Kafka isn't asked.
    """
    call = invocation(context)
    checked: list[CheckedPartition] = []
    with open_archive(call.settings, archive or "") as opened:
        for partition in verify_archive(opened):
            checked.append(partition)
            call.output.print_text(_checked_line(partition))
        _check_not_empty(opened, checked)
        trees = []
        for tree in check_trees(call.settings, opened):
            trees.append(tree)
            call.output.print_text(_tree_line(tree))
        where = opened.store.where
    call.output.print_json(
        {
            "schema_version": 1,
            "archive": where,
            "partitions": [asdict(part) for part in checked],
            "trees": [asdict(tree) for tree in trees],
        }
    )


def _tree_line(tree: CheckedTree) -> str:
    behind = f"; {tree.not_in_tree} behind the tree's end" if tree.not_in_tree else ""
    return f"{tree.compared} commands are those of the tree {tree.origin}{behind}"


def _check_not_empty(archive: Archive, checked: list[CheckedPartition]) -> None:
    if not checked:
        raise BadUse(
            "there is no archive", where=archive.store.where, next="Run `mirrorlog archive run`."
        )


def _checked_line(checked: CheckedPartition) -> str:
    holes = "".join(f"; positions {after + 1} to {end} are missing" for after, end in checked.holes)
    return (
        f"partition {checked.partition}: {checked.commands} commands and {checked.rows} rows in "
        f"{checked.files} files, whole through position {checked.through}{holes}"
    )
