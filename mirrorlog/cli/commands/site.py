"""`mirrorlog site`: a site, which keeps secondaries up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from mirrorlog.adapters.systemd import open_supervisor
from mirrorlog.cli.commands.site_serve import serve
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.journal_options import (
    ConsistencyOption,
    JournalMaxOption,
    JournalOption,
    with_journal,
)
from mirrorlog.cli.support.metrics_option import (
    MetricsOption,
    metrics_printer,
    with_metrics,
)
from mirrorlog.cli.support.mirror_options import (
    MirrorOfOption,
    MirrorPrefixOption,
    with_mirror,
)
from mirrorlog.cli.support.site_addresses import (
    PrimaryOption,
    SecondaryOption,
    with_addresses,
)
from mirrorlog.cli.support.site_lines import SiteLines
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.consumers import run_worker
from mirrorlog.consumers.resync.copy_rate import parse_rates
from mirrorlog.consumers.resync.reporting import SiteSummary
from mirrorlog.consumers.state.pauses import PauseFile, Pauses
from mirrorlog.consumers.wiring import run_site_with
from mirrorlog.consumers.worker_wiring import WorkerCalls
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.processes.free_memory import keep_memory_low
from mirrorlog.units import format_count, parse_duration_s

app = typer.Typer(no_args_is_help=True, help="Run a site, which keeps secondaries up to date.")


@app.command()
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="SITE")],
    folder: Annotated[
        Path,
        typer.Option(
            "--dir",
            help="Keep the site's state in this folder, and secondaries that have no address.",
        ),
    ],
    primary: PrimaryOption = None,
    secondary: SecondaryOption = None,
    volumes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Mirror only volumes whose names match. It can be given several times. Without "
            "it, those whose descriptions name this site, or no site.",
        ),
    ] = None,
    max_rate: Annotated[
        str | None,
        typer.Option(
            help="Copy at most so fast: 50MB/s; auto, which yields to the primary's own load; or "
            "08:00-18:00=auto:50MB/s,else=max by local time.",
            metavar="RATE",
        ),
    ] = None,
    checksum: Annotated[
        bool,
        typer.Option(
            help="Where everything has to be copied, read both sides and write only what differs."
        ),
    ] = False,
    from_seed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="The secondaries of volumes whose names match are copies that were put there. "
            "They are compared with the primary, and only what differs is written. Repeatable.",
        ),
    ] = None,
    primary_reader: Annotated[
        Literal["site", "host"] | None,
        typer.Option(
            help="Who reads the primary for such a comparison: the site, or `mirrorlog host "
            "digest` beside it, so that only digests and what differs cross the line."
        ),
    ] = None,
    consistency: ConsistencyOption = None,
    journal: JournalOption = None,
    journal_max: JournalMaxOption = None,
    worker: Annotated[
        bool,
        typer.Option(
            "--worker",
            help="Share the site's volumes with other processes on this machine that run it with "
            "--worker and the same --dir. If one is killed, the others take its volumes over.",
        ),
    ] = False,
    mirror_of: MirrorOfOption = None,
    mirror_prefix: MirrorPrefixOption = None,
    metrics: MetricsOption = None,
    pid_file: DetachOption = None,
) -> None:
    """Keep the secondaries of a site up to date until stopped."""
    call = with_metrics(invocation(context, waits=True), metrics)
    call = with_mirror(call, mirror_of, mirror_prefix)
    call = with_addresses(call, name, folder, primary or [], secondary or [])
    update: dict[str, object] = {"site_checksum": True} if checksum else {}
    if volumes:
        update["site_volumes"] = tuple(volumes)
    if from_seed:
        update["site_seeds"] = tuple(from_seed)
    if primary_reader is not None:
        update["site_primary_reader"] = primary_reader
    if max_rate is not None:
        parse_rates(max_rate)
        update["site_max_rate"] = max_rate
    call = replace(call, settings=call.settings.model_copy(update=update))
    call = with_journal(call, consistency, journal, journal_max)
    output = call.output
    tell_ready = detach(pid_file, output)
    supervisor = open_supervisor()
    keep_memory_low()
    signalled: Callable[[], bool] | None = None
    clock = SystemClock()
    lines = SiteLines(name, output, clock.monotonic_s)

    def on_ready() -> None:
        # Signals are caught from here on only, so that Ctrl-C ends the site at once while it
        # waits for Kafka at its start.
        nonlocal signalled
        signalled = stop_flag()
        lines.ready(call.settings, folder)
        tell_ready()
        supervisor.ready(f"site {name} is ready")

    def stopped() -> bool:
        lines.tick()
        if signalled is None or not signalled():
            return False
        supervisor.stopping()
        return True

    def tell_summary(summary: SiteSummary) -> None:
        output.print_message("progress", asdict(summary))
        supervisor.tell(
            f"{format_count(summary.volumes, 'volume')}: {summary.consistent} consistent, "
            f"{summary.stopped} stopped"
        )

    calls = WorkerCalls(
        on_ready=on_ready,
        on_summary=tell_summary,
        on_metrics=metrics_printer(output),
        on_change=lines.change,
        on_share=lines.share,
        on_alive=supervisor.alive,
    )
    if worker:
        run_worker(name, folder, call.settings, stopped=stopped, calls=calls)
    else:
        run_site_with(name, folder, call.settings, stopped, calls)
    lines.stopped()


@app.command()
def wait(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    timeout: Annotated[str, typer.Option(help="Wait this long.")] = "5min",
) -> None:
    """Wait until every secondary of a volume equals the primary as of now, or later.

    Exit 1 at the timeout, with the state of a secondary that doesn't.
    """
    call = invocation(context)
    reports = wait_until_consistent(call.settings, name, parse_duration_s(timeout))
    call.output.print_json(
        {"schema_version": 1, "volume": name, "secondaries": [asdict(report) for report in reports]}
    )
    for report in reports:
        call.output.print_text(
            f"{name} at {report.site} equals the primary as of position "
            f"{report.consistent_position}"
        )


_VolumeOrAll = Annotated[
    str | None, typer.Argument(metavar="VOLUME", help="The volume whose secondary is meant.")
]
_AllOption = Annotated[bool, typer.Option("--all", help="Every secondary of the site.")]
_FolderOption = Annotated[Path, typer.Option("--dir", help="The site's folder.")]


@app.command()
def pause(
    context: typer.Context,
    folder: _FolderOption,
    name: _VolumeOrAll = None,
    is_all: _AllOption = False,
) -> None:
    """Pause a secondary: it stays as it is until it is resumed, also after a restart of the site.

    A copy that runs stops within a few batches. The log is kept for the site meanwhile.
    """
    _change_pauses(context, folder, name, is_all, Pauses.paused)


@app.command()
def resume(
    context: typer.Context,
    folder: _FolderOption,
    name: _VolumeOrAll = None,
    is_all: _AllOption = False,
) -> None:
    """Let a paused secondary go on where it was."""
    _change_pauses(context, folder, name, is_all, Pauses.resumed)


def _change_pauses(
    context: typer.Context,
    folder: Path,
    volume: str | None,
    is_all: bool,
    change: Callable[[Pauses, str | None], Pauses],
) -> None:
    """Change the pauses of one volume, or of all: exactly one of both is said, else BadUse."""
    call = invocation(context)
    if (volume is None) != is_all:
        raise BadUse("a volume, or --all, is needed", next="Name one volume, or give --all.")
    _, pauses = PauseFile(folder).change(lambda before: change(before, volume))
    volumes = sorted(pauses.volumes)
    call.output.print_json({"schema_version": 1, "all": pauses.is_all, "volumes": volumes})
    what = "every secondary" if pauses.is_all else ", ".join(volumes) or "nothing"
    call.output.print_text(f"paused: {what}")


app.command()(serve)


@app.command("list")
def list_sites(context: typer.Context) -> None:
    """List the sites: whether each runs, where, and the states of its volumes."""
    from mirrorlog.changed.points import format_time
    from mirrorlog.cli.support.present import open_present
    from mirrorlog.cli.support.status_view import print_sites, site_fields
    from mirrorlog.status.health import Thresholds

    call = invocation(context)
    with open_present(call.settings, Thresholds()) as view:
        overview = view.look()
    fields = {
        "schema_version": 1,
        "at": format_time(overview.at_us),
        "sites": [site_fields(row) for row in overview.sites],
    }
    call.output.print_json(fields)
    print_sites(call.output, overview.sites)


@app.command()
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="SITE")],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Remove a site that will never return: the log is no longer kept for it.

    A site that runs isn't removed. Its secondaries stay as they are. If it is started again, it
    goes on if the log still reaches back to where it was, and copies all that is allocated if not.
    """
    from mirrorlog.cli.support.removals import print_removed, removal_cost, removal_fields
    from mirrorlog.consumers.site_removal import check_removal, remove_site

    call = invocation(context)
    if dry_run or not yes:  # removing checks again, and may listen for a dead site as long
        reports = check_removal(name, call.settings)
        cost, facts = removal_cost(name, reports), removal_fields(name, reports)
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run, kind="site", facts=facts):
            return
    print_removed(call.output, name, remove_site(name, call.settings))
