"""`mirrorlog node`: one worker of the processing node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mirrorlog.adapters.systemd import open_supervisor
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.node_lines import NodeLines, listed
from mirrorlog.cli.support.output import report_error
from mirrorlog.processes.free_memory import keep_memory_low, reuse_freed_memory
from mirrorlog.processes.numpy_features import avoid_slow_sorts

if TYPE_CHECKING:
    from mirrorlog.streams.table.changelog_follower import RecoveryProgress

app = typer.Typer()

_NEXT_S: Final = 120.0
"""Within this time a worker that reads the log says how far it is: it does so every 10 s."""


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
    supervisor = open_supervisor()
    keep_memory_low()
    reuse_freed_memory()
    avoid_slow_sorts()  # before the next line imports NumPy
    from mirrorlog.streams import run_node
    from mirrorlog.streams.liveness import LifeCalls

    settings = (
        call.settings if http is None else call.settings.model_copy(update={"node_http": http})
    )
    lines = NodeLines(settings, call.output)

    def print_ready(url: str | None, partitions: Sequence[int]) -> None:
        lines.ready(url, partitions)
        tell_ready()
        supervisor.ready(f"{settings.node_name} is ready; partitions {listed(partitions)}")

    def print_recovery(progress: RecoveryProgress) -> None:
        lines.recovery(progress)
        supervisor.starting(
            f"reading the log: {progress.read} of {progress.total} positions", within_s=_NEXT_S
        )

    def print_failure(error: BaseException) -> None:
        supervisor.tell(str(error))
        report_error(error, as_json=call.output.json, verbose=call.verbose)

    run_node(
        settings,
        on_ready=print_ready,
        on_failure=print_failure,
        on_recovery=print_recovery,
        life=LifeCalls(
            on_alive=supervisor.alive, on_stuck=supervisor.tell, on_stopping=supervisor.stopping
        ),
    )
    lines.stopped()
