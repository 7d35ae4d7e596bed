"""`mirrorlog node`: one worker of the processing node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.node_lines import NodeLines
from mirrorlog.cli.support.output import report_error

app = typer.Typer()


@app.command()
def node(
    context: typer.Context,
    http: Annotated[
        str | None,
        typer.Option(
            help="Answer over HTTP at this address (docs/http.md). Port 0 takes a free port; 'off' "
            "turns HTTP off. The default is 127.0.0.1:0.",
            metavar="HOST:PORT",
        ),
    ] = None,
    pid_file: DetachOption = None,
) -> None:
    """Run a worker of the processing node (a Faust worker) until it is stopped.

    It folds the tracking commands into the log, and answers each. It commits only what the log
    holds. If the log can't be written, the worker stops; started again, it continues from there.
    """
    call = invocation(context, waits=True)
    tell_ready = detach(pid_file, call.output)
    from mirrorlog.streams import run_node

    settings = (
        call.settings if http is None else call.settings.model_copy(update={"node_http": http})
    )
    lines = NodeLines(settings, call.output)

    def print_ready(url: str | None, partitions: Sequence[int]) -> None:
        lines.ready(url, partitions)
        tell_ready()

    def print_failure(error: BaseException) -> None:
        report_error(error, as_json=call.output.json, verbose=call.verbose)

    run_node(settings, on_ready=print_ready, on_failure=print_failure, on_recovery=lines.recovery)
    lines.stopped()
