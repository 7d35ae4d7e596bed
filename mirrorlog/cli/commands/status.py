"""`mirrorlog status`: one look at everything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.present import PresentView, open_present
from mirrorlog.cli.support.status_view import (
    overview_fields,
    print_overview,
    replica_cells,
    replica_fields,
)
from mirrorlog.cli.support.waiting import look_until, proves
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import PartFailed
from mirrorlog.reading.last_commands import LastCommands
from mirrorlog.status.health import Thresholds
from mirrorlog.status.overview import Overview
from mirrorlog.status.replicas import ReplicaStatus
from mirrorlog.units import format_duration, parse_duration_s

app = typer.Typer()


@app.command()
def status(
    context: typer.Context,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]")] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Look again and again; off a terminal, print what has changed."
        ),
    ] = False,
    interval: Annotated[str, typer.Option(help="With --watch: look this often.")] = "2s",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Wait until every secondary is consistent with what is written now."
        ),
    ] = False,
    timeout: Annotated[str, typer.Option(help="With --wait: give up after this time.")] = "5min",
) -> None:
    """Show every secondary, site, host and worker of the node, and what isn't well.

    docs/status.md says what each column means.
    """
    call = invocation(context)
    with open_present(call.settings, Thresholds(), volume=volume) as view:
        if wait:
            _wait(view, parse_duration_s(timeout))
        if watch:
            _watch(call, view, parse_duration_s(interval))
            return
        overview = view.look()
        if call.output.json:
            call.output.print_json(overview_fields(overview))
        else:
            print_overview(call.output, overview)


def _wait(view: PresentView, timeout_s: float) -> None:
    """Return when every secondary holds what was written before the call, consistently.

    Raise PartFailed at the timeout, or if no site mirrors a volume by then.
    """
    volumes = {name: volume for name, volume in view.described().items() if not volume.is_retired}
    commands = view.last_commands(volumes.values())

    def unproved(overview: Overview) -> list[ReplicaStatus]:
        return [row for row in overview.replicas if not _is_proved(row, volumes, commands)]

    overview = look_until(view.look, lambda seen: not unproved(seen), timeout_s)
    if missing := unproved(overview):
        row = missing[0]
        raise PartFailed(
            f"{_secondaries(len(missing))} consistent within {format_duration(timeout_s)}",
            where=f"volume {row.volume}, site {row.site or 'none'}: "
            f"{row.reason or row.state or 'no report'}",
            next=row.next_action or "Look again with `mirrorlog status`.",
        )


def _secondaries(count: int) -> str:
    return "1 secondary wasn't" if count == 1 else f"{count} secondaries weren't"


def _is_proved(
    row: ReplicaStatus, volumes: Mapping[str, Volume], commands: Mapping[int, LastCommands]
) -> bool:
    """Return whether the secondary is consistent at the last command before the wait, or later.

    commands: by partition, up to that command.
    """
    if row.volume not in volumes:
        return True  # retired, or created since
    last = commands[volumes[row.volume].partition]
    if row.state != "CONSISTENT" or row.consistent_position is None:
        return False
    if proves(row.consistent_position, last.through):
        return True
    return row.behind_blocks == 0 and not last.may_concern(
        row.volume, after=row.consistent_position
    )


def _watch(call: Invocation, view: PresentView, interval_s: float) -> None:
    """Look every `interval_s` seconds until interrupted."""
    if call.output.width is not None and not call.output.json:
        _watch_terminal(call, view, interval_s)
        return
    before: dict[tuple[str, str | None], ReplicaStatus] = {}
    while True:
        overview = view.look()
        for row in overview.replicas:
            key = (row.volume, row.site)
            if key not in before or _has_changed(before[key], row):
                before[key] = row
                call.output.print_message("status", replica_fields(row))
                if not call.output.json:
                    call.output.print_text("  ".join(replica_cells(row)).rstrip())
        time.sleep(interval_s)


def _has_changed(before: ReplicaStatus, now: ReplicaStatus) -> bool:
    """Return whether the row says something new: ages alone don't."""

    def essence(row: ReplicaStatus) -> tuple[object, ...]:
        lacks = row.behind_bytes if row.state is not None else None
        return row.health, row.state, row.reported_state, lacks, row.applied_position, row.rung

    return essence(before) != essence(now)


def _watch_terminal(call: Invocation, view: PresentView, interval_s: float) -> None:
    from rich.live import Live
    from rich.text import Text

    from mirrorlog.cli.support.status_view import watch_lines

    with Live(console=call.output.console, screen=True, auto_refresh=False) as live:
        while True:
            overview: Overview = view.look()
            size = call.output.console.size
            lines = watch_lines(overview, width=size.width, height=size.height - 1)
            live.update(Text("\n".join(lines)), refresh=True)
            time.sleep(interval_s)
