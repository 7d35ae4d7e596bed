"""`mirrorlog check`: the health of everything, as a plug-in of Nagios and its kin."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.global_options import given_options
from mirrorlog.cli.support.output import OutputClosed
from mirrorlog.cli.support.plugin_line import error_line, plugin_lines
from mirrorlog.cli.support.present import open_present
from mirrorlog.cli.support.status_view import overview_fields
from mirrorlog.errors import KafkaFailed, MirrorlogError
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.units import parse_duration_s, parse_size

app = typer.Typer()


@app.command()
def check(
    context: typer.Context,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]")] = None,
    site: Annotated[str | None, typer.Option(help="Check the secondaries of this site.")] = None,
    warn_lag: Annotated[str, typer.Option(help="WARNING from this lag on.")] = "60s",
    crit_lag: Annotated[
        str, typer.Option(help="CRITICAL from this lag on, and for what was silent as long.")
    ] = "10min",
    warn_behind: Annotated[
        str | None, typer.Option(help="WARNING if a secondary lacks as much.", metavar="SIZE")
    ] = None,
    crit_behind: Annotated[
        str | None, typer.Option(help="CRITICAL if a secondary lacks as much.", metavar="SIZE")
    ] = None,
) -> None:
    """Check everything, for monitoring: exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

    These are the codes of monitoring plug-ins, and not those of the other commands. If Kafka
    doesn't answer, that is CRITICAL: no secondary moves then.
    """
    call = invocation(context)
    try:
        thresholds = Thresholds(
            warn_lag_s=parse_duration_s(warn_lag),
            crit_lag_s=parse_duration_s(crit_lag),
            warn_behind_bytes=None if warn_behind is None else parse_size(warn_behind),
            crit_behind_bytes=None if crit_behind is None else parse_size(crit_behind),
        )
        health, lines = _look(call, thresholds, volume, site)
    except KafkaFailed as error:
        call.output.print_json(error.as_message())
        health, lines = Health.CRITICAL, [error_line(Health.CRITICAL, str(error))]
    except (KeyboardInterrupt, OutputClosed):
        raise
    except MirrorlogError as error:
        call.output.print_json(error.as_message())
        health, lines = Health.UNKNOWN, [error_line(Health.UNKNOWN, str(error))]
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing is proved
        health, lines = Health.UNKNOWN, [error_line(Health.UNKNOWN, str(error))]
    # The line goes to stdout whatever -q says; with --json, JSON is there, and the line on stderr.
    typer.echo("\n".join(lines), err=given_options(context).json)
    raise typer.Exit(int(health))


def _look(
    call: Invocation, thresholds: Thresholds, volume: str | None, site: str | None
) -> tuple[Health, list[str]]:
    with open_present(call.settings, thresholds, volume=volume, site=site) as view:
        overview = view.look()
    call.output.print_json(overview_fields(overview))
    health = overview.health
    if site is not None and not overview.sites:
        return Health.UNKNOWN, [error_line(Health.UNKNOWN, f"there is no site '{site[:200]}'")]
    return health, plugin_lines(overview, thresholds)
