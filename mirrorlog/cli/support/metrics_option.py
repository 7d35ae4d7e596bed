"""The option --metrics of the commands that run a host, a site or an archiver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.output import Output

MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Serve metrics to Prometheus at HOST:PORT/metrics (docs/metrics.md). Port 0 takes a "
        "free port, which is printed. The default is 'off'.",
        metavar="HOST:PORT",
    ),
]


def with_metrics(call: Invocation, address: str | None) -> Invocation:
    """Return the call with the option's address in its settings, if there is one."""
    if address is None:
        return call
    return replace(call, settings=call.settings.model_copy(update={"metrics": address}))


def metrics_printer(output: Output) -> Callable[[str], None]:
    """Return a function that prints where the metrics are."""

    def print_address(url: str) -> None:
        output.print_message("metrics", {"url": url})
        output.print_text(f"metrics at {url}")

    return print_address
