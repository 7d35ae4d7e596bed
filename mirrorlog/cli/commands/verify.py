"""`mirrorlog verify`: does a secondary equal its primary? While both are written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Final, Literal

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.output import report_error
from mirrorlog.cli.support.present import open_present
from mirrorlog.cli.support.sending import CommandContent, check_accepted, send_command
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.cli.support.verify_view import VerifyLines, failure_of, print_report
from mirrorlog.cli.support.waiting import look_until
from mirrorlog.consumers.resync.copy_rate import RateSchedule, parse_rates
from mirrorlog.consumers.verify.schedule import VerifySchedule, parse_schedule
from mirrorlog.consumers.verify.verifier import Verifier, VerifyOptions
from mirrorlog.consumers.verify.wiring import last_report, open_verifier
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.verifications import (
    ByteRange,
    PrimaryReader,
    VerificationReport,
    VerificationState,
    parse_algorithm,
)
from mirrorlog.errors import BadUse, ExitCode, MirrorlogError
from mirrorlog.ports.clock import SystemClock
from mirrorlog.status.health import Thresholds
from mirrorlog.units import format_duration, parse_duration_s, parse_size

app = typer.Typer()

_STEP_S: Final = 0.05
_STATUS_S: Final = 60.0


@app.command()
def verify(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    site: Annotated[str, typer.Option(help="Verify the secondary of this site.")],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mark blocks that differ dirty, so that they are copied."),
    ] = False,
    goes_on: Annotated[
        bool, typer.Option("--continue", help="Go on where the last run was cut short.")
    ] = False,
    max_rate: Annotated[
        str | None,
        typer.Option(
            help="Hash at most so fast, by each side: 50MB/s, or 08:00-18:00=50MB/s,else=max.",
            metavar="RATE",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Verify again and again until stopped, at this local time (03:00), on this day "
            "(sun 03:00), or in this interval (12h).",
            metavar="WHEN",
        ),
    ] = None,
    primary_reader: Annotated[
        Literal["site", "host"],
        typer.Option(
            help="Who hashes the primary: the site, or `mirrorlog host digest` at the host."
        ),
    ] = "site",
    algorithm: Annotated[
        str, typer.Option(help="Hash with xxh3-128, or with blake2b-128 against an adversary.")
    ] = "xxh3-128",
    range_size: Annotated[
        str, typer.Option("--range", help="Compare digests of ranges of this size.")
    ] = "1MiB",
    patience: Annotated[
        str,
        typer.Option(help="Skip a range that can't be judged for so long; give a side up, too."),
    ] = "60s",
) -> None:
    """Compare a secondary with its primary by digests, while hosts write and the site copies.

    A range that differs counts only if the log names no change of it. Exit 0: every byte is
    confirmed. Exit 4: blocks differ. Exit 1: it was cut short, or ranges were skipped.
    """
    call = invocation(context, waits=schedule is not None)
    options = VerifyOptions(
        volume=find_volume(call.settings, name),
        site=site,
        algorithm=parse_algorithm(algorithm),
        primary_reader=PrimaryReader(primary_reader.upper()),
        range_bytes=_range_bytes(range_size),
        rate=_rate(max_rate),
        patience_s=parse_duration_s(patience),
    )
    _check_site(call, name, site)
    stopped = stop_flag()
    if schedule is not None:
        _repeat(call, options, parse_schedule(schedule), repair, stopped)
        return
    earlier = _earlier(call, options) if goes_on else None
    report = _run(call, options, earlier, repair, stopped)
    if report.state is not VerificationState.FINISHED:
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    failure = failure_of(report)
    if failure is not None:
        raise failure


def _run(
    call: Invocation,
    options: VerifyOptions,
    earlier: VerificationReport | None,
    repair: bool,
    stopped: Callable[[], bool],
) -> VerificationReport:
    """Run one verification, print its report and publish it. However it ends, a report says so.

    Return the report, which is ABORTED if a signal came. Raise what ended it otherwise.
    """
    with open_verifier(options, call.settings, earlier) as verifier:
        try:
            is_done = _step_to_end(call, verifier, stopped)
            if is_done and repair:
                is_done = _repair(call, options, verifier, stopped)
        except BaseException as error:
            why = str(error) if isinstance(error, MirrorlogError) else type(error).__name__
            print_report(call.output, verifier.publish(VerificationState.ABORTED, why))
            raise
        if is_done:
            report = verifier.publish(VerificationState.FINISHED)
        else:
            report = verifier.publish(VerificationState.ABORTED, "it was stopped by a signal")
        print_report(call.output, report)
    return report


def _step_to_end(call: Invocation, verifier: Verifier, stopped: Callable[[], bool]) -> bool:
    """Take steps until the verification is over. Return False if a signal came before."""
    lines = VerifyLines(call.output, SystemClock().monotonic_s)
    while not verifier.is_over:
        if stopped():
            return False
        verifier.step(_STEP_S)
        lines.tick(lambda: verifier.report(VerificationState.RUNNING))
    return True


def _repair(
    call: Invocation, options: VerifyOptions, verifier: Verifier, stopped: Callable[[], bool]
) -> bool:
    """Mark the blocks that differ dirty, and hash them again when the site has copied them."""
    different = verifier.verification.different_ranges()
    if not different:
        return True
    position = _mark_dirty(call, options, different)
    call.output.print_text(
        f"{len(verifier.verification.findings.different)} blocks are marked dirty, through "
        f"position {position}: the site copies them"
    )
    verifier.verification.recheck(position, SystemClock().monotonic_s())
    return _step_to_end(call, verifier, stopped)


def _mark_dirty(call: Invocation, options: VerifyOptions, ranges: Sequence[ByteRange]) -> int:
    """Publish commands that mark ranges dirty. Return the position of the last one."""
    rest = iter(ranges)
    position = 0
    note = f"verify: differs at site {options.site}"
    while batch := list(islice(rest, call.settings.host_batch_extents)):
        extents = [Extent(extent.offset, extent.length) for extent in batch]
        content = CommandContent(CommandKind.MARK_DIRTY, extents, note=note)
        status = send_command(call.settings, options.volume, content, _STATUS_S)
        check_accepted(status)
        position = status.position
    return position


def _repeat(
    call: Invocation,
    options: VerifyOptions,
    schedule: VerifySchedule,
    repair: bool,
    stopped: Callable[[], bool],
) -> None:
    """Verify at the times of the schedule until a signal comes. Errors are printed, and it goes on.

    A run that was cut short is continued by the next one.
    """
    last_run: datetime | None = None
    while True:
        due = schedule.next_run(_local_now(), last_run)
        wait_s = max((due - _local_now()).total_seconds(), 0.0)
        if wait_s:
            call.output.print_text(f"the next verification begins in {format_duration(wait_s)}")
        if look_until(stopped, bool, wait_s):
            return
        last_run = _local_now()
        try:
            volume = find_volume(call.settings, options.volume.volume)
            options = replace(options, volume=volume)
            report = _run(call, options, _earlier(call, options), repair, stopped)
            failure = failure_of(report) if report.state is VerificationState.FINISHED else None
        except MirrorlogError as error:
            failure = error
        if failure is not None:
            report_error(failure, as_json=False, verbose=call.verbose)


def _local_now() -> datetime:
    return datetime.now(UTC).astimezone()


def _earlier(call: Invocation, options: VerifyOptions) -> VerificationReport | None:
    """Return the report of a run that was cut short; None if there is none to go on from."""
    volume = options.volume
    report = last_report(call.settings, options.site, volume.volume)
    if (
        report is None
        or report.is_equal
        or report.generation != volume.generation
        or report.size_bytes != volume.size_bytes
        or (report.state is VerificationState.FINISHED and not report.skipped_bytes)
    ):
        return None
    call.output.print_text(f"going on with the verification of before: {report.result}")
    return report


def _check_site(call: Invocation, name: str, site: str) -> None:
    """Raise BadUse if the site reports nothing on the volume: nobody would answer."""
    with open_present(call.settings, Thresholds(), volume=name) as view:
        sites = [report.site for report in view.reports(name)]
    if site not in sites:
        raise BadUse(
            f"site {site} has no secondary of volume {name}",
            next=f"It is mirrored at: {', '.join(sites) or 'no site'}.",
        )


def _rate(text: str | None) -> RateSchedule:
    """Return the rates of the option. Raise BadUse for one that yields to the primary's load."""
    rate = RateSchedule() if text is None else parse_rates(text)
    if rate.is_adaptive:
        raise BadUse(
            "a verification has no adaptive rate: its reads aren't measured",
            where="--max-rate",
            next="Give a rate, or rates by the time of day: 08:00-18:00=50MB/s,else=max.",
        )
    return rate


def _range_bytes(text: str) -> int:
    size_bytes = parse_size(text)
    if not 1 << 12 <= size_bytes <= 1 << 26:
        raise BadUse(f"ranges can't have {text}", next="Choose a size from 4KiB to 64MiB.")
    return size_bytes
