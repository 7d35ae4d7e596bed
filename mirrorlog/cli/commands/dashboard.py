"""`mirrorlog dashboard`: a web page that shows every volume at every site."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.adapters.systemd import open_supervisor
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.processes.free_memory import keep_memory_low

app = typer.Typer()


@app.command()
def dashboard(
    context: typer.Context,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Serve the page at this address. Port 0 takes a free port, which is printed. The "
            "default is 127.0.0.1:8090.",
            metavar="HOST:PORT",
        ),
    ] = None,
    pid_file: DetachOption = None,
) -> None:
    """Serve a web page that shows every volume at every site, until stopped.

    It reads the topics, and changes nothing. docs/dashboard.md says what each part of it means.
    """
    call = invocation(context, waits=True)
    settings = call.settings
    if listen is not None:
        settings = settings.model_copy(update={"dashboard_http": listen})
    tell_ready = detach(pid_file, call.output)
    supervisor = open_supervisor()
    keep_memory_low()
    from mirrorlog.consumers.dashboard.wiring import run_dashboard

    def print_ready(url: str) -> None:
        call.output.print_message("ready", {"url": url})
        call.output.print_text(f"the dashboard is at {url}")
        supervisor.ready(f"the dashboard is at {url}")
        tell_ready()

    run_dashboard(settings, stopped=stop_flag(), on_ready=print_ready, supervisor=supervisor)
    supervisor.stopping()
