"""`mirrorlog doctor`: one look at this machine and its cluster that finds what breaks mirrorlog."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.acls import Role
from mirrorlog.cli.support.global_options import given_options
from mirrorlog.cli.support.log_lines import set_up_logging
from mirrorlog.cli.support.output import Output
from mirrorlog.errors import ExitCode

app = typer.Typer()


@app.command()
def doctor(
    context: typer.Context,
    role: Annotated[
        Role | None,
        typer.Option(help="Look at what this role needs. By default, at what any role needs."),
    ] = None,
) -> None:
    """Look for what breaks mirrorlog on this machine and its cluster. Change nothing.

    Exit 1 if something failed, 0 if all is ok or there are only warnings. What can't be asked is
    said, and doesn't hide the rest. `status` says how volumes, sites and hosts do.
    """
    from mirrorlog.cli.doctor.checks import has_failed, judge
    from mirrorlog.cli.doctor.gathering import gather

    given = given_options(context)
    set_up_logging(verbose=given.verbose)
    findings = judge(gather(given.values, role))
    output, has_passed = Output.of(given), not has_failed(findings)
    output.print_json(
        {
            "schema_version": 1,
            "ok": has_passed,
            "checks": [finding.fields(name) for name, finding in findings],
        }
    )
    for name, finding in findings:
        output.print_text(finding.line(name))
    if not has_passed:
        raise typer.Exit(int(ExitCode.FAILED))
