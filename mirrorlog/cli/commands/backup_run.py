"""`mirrorlog backup run`: take points of volumes again and again."""

from __future__ import annotations

import signal
import time
from typing import Annotated, Final

import typer

from mirrorlog.adapters.systemd import open_supervisor
from mirrorlog.cli.support.backup_options import (
    AfterOption,
    BeforeOption,
    CompressOption,
    CopyDirOption,
    FromSiteOption,
    GivenBackup,
    HookTimeoutOption,
    InconsistentOption,
    LayoutOption,
    SiteDirOption,
    ToOption,
    WaitOption,
    take_and_print,
    with_backup_addresses,
)
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.keep_options import (
    KeepDailyOption,
    KeepHourlyOption,
    KeepLastOption,
    KeepMonthlyOption,
    KeepWeeklyOption,
    KeepYearlyOption,
    keep_rules,
)
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.cli.support.output import report_error
from mirrorlog.cli.support.site_addresses import PrimaryOption, SecondaryOption
from mirrorlog.consumers.backup.repository.keep import KeepRules
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.repository.prune_by_rules import prune_by_rules
from mirrorlog.consumers.backup.taking.rounds import run_rounds
from mirrorlog.errors import BadUse, MirrorlogError, UnknownVolume
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.ports.supervisor import Supervisor
from mirrorlog.processes.free_memory import keep_memory_low
from mirrorlog.units import format_count, format_duration, parse_duration_s

app = typer.Typer()

_LOOK_S: Final = 1.0


@app.command()
def run(
    context: typer.Context,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME...")],
    to: ToOption,
    every: Annotated[
        str, typer.Option(metavar="TIME", help="The time from the start of a round to the next.")
    ],
    from_site: FromSiteOption = None,
    folder: SiteDirOption = None,
    copy_dir: CopyDirOption = None,
    primary: PrimaryOption = None,
    secondary: SecondaryOption = None,
    before: BeforeOption = None,
    after: AfterOption = None,
    hook_timeout_s: HookTimeoutOption = 30.0,
    layout: LayoutOption = "subclusters",
    compress: CompressOption = False,
    allow_inconsistent: InconsistentOption = False,
    wait: WaitOption = "60s",
    keep_last: KeepLastOption = 0,
    keep_hourly: KeepHourlyOption = 0,
    keep_daily: KeepDailyOption = 0,
    keep_weekly: KeepWeeklyOption = 0,
    keep_monthly: KeepMonthlyOption = 0,
    keep_yearly: KeepYearlyOption = 0,
    pid_file: DetachOption = None,
) -> None:
    """Take points of volumes again and again, until stopped.

    One volume follows the other. An error of one is printed, and the others go on. With any --keep
    option, the points that none of them keeps are removed after each point.
    """
    call = invocation(context, waits=True)
    every_s = parse_duration_s(every)
    if every_s < 1:
        raise BadUse("rounds are at least 1 s apart", where=f"--every {every}")
    given = GivenBackup(
        to=to,
        from_site=from_site,
        site_dir=folder,
        copy_dir=copy_dir,
        before=before,
        after=after,
        hook_timeout_s=hook_timeout_s,
        layout=layout,
        compress=compress,
        allow_inconsistent=allow_inconsistent,
        wait=wait,
        every_s=every_s,
    )
    rules = keep_rules(
        last=keep_last,
        hourly=keep_hourly,
        daily=keep_daily,
        weekly=keep_weekly,
        monthly=keep_monthly,
        yearly=keep_yearly,
    )
    call = with_backup_addresses(call, given, primary, secondary)
    given.as_options()
    given.as_request(volumes[0])
    tell_ready = detach(pid_file, call.output)
    supervisor = open_supervisor()
    keep_memory_low()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _check_volumes(call, volumes)
    call.output.print_message("ready", {"repository": to, "every_s": every_s, "volumes": volumes})
    call.output.print_text(
        f"backing up {', '.join(volumes)} to {to} every {format_duration(every_s)}"
    )
    tell_ready()
    supervisor.ready(f"backing up {format_count(len(volumes), 'volume')} to {to}")
    try:
        _run(call, given, volumes, rules, every_s, supervisor)
    except KeyboardInterrupt:  # a point that isn't finished leaves nothing behind
        supervisor.stopping()
        call.output.print_text("stopped")


def _run(
    call: Invocation,
    given: GivenBackup,
    volumes: list[str],
    rules: KeepRules | None,
    every_s: float,
    supervisor: Supervisor,
) -> None:
    """Run rounds until KeyboardInterrupt comes."""
    clock = SystemClock()

    def back_up(volume: str) -> None:
        supervisor.alive()
        supervisor.tell(f"backing up {volume}")
        take_and_print(call, given, given.as_options(), volume, supervisor.alive)
        supervisor.tell(f"{volume} is backed up")
        if rules is not None:
            _prune(call, given.to, volume, rules)

    def report(volume: str, error: MirrorlogError) -> None:
        supervisor.tell(f"{volume} isn't backed up: {error.what}")
        report_error(error, as_json=False, verbose=call.verbose)
        fields = {**error.as_message(), "message_type": "warning", "volume": volume}
        call.output.print_message("warning", fields)

    run_rounds(
        volumes,
        back_up,
        every_s=every_s,
        clock=clock,
        rest=lambda for_s: _rest(for_s, clock, supervisor),
        on_error=report,
    )


def _rest(for_s: float, clock: Clock, supervisor: Supervisor) -> None:
    """Rest for so many seconds, and show signs of life meanwhile."""
    until_s = clock.monotonic_s() + for_s
    while (left_s := until_s - clock.monotonic_s()) > 0:
        supervisor.alive()
        time.sleep(min(left_s, _LOOK_S))


def _prune(call: Invocation, address: str, volume: str, rules: KeepRules) -> None:
    """Remove the points that no rule keeps, and print which."""
    with open_repository(call.settings, address) as repository:
        report = prune_by_rules(repository, volume, rules)
    fields = {"volume": volume, "removed": report.removed, "merged": report.merged}
    call.output.print_message("pruned", {**fields, "damaged": report.damaged})
    if report.removed:
        call.output.print_text(f"{volume}: removed {', '.join(report.removed)}")
    for text in report.damaged:
        call.output.print_note(f"warning: {text}")


def _check_volumes(call: Invocation, volumes: list[str]) -> None:
    """Raise UnknownVolume for a name that no volume has: most likely it is misspelt."""
    known = load_volumes(call.settings)
    for volume in volumes:
        if volume not in known:
            raise UnknownVolume(
                f"there is no volume {volume}", next="`mirrorlog volume list` shows them."
            )
