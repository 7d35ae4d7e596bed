"""The option --metrics of the commands that run a host or a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from mirrorlog.cli.support.output import Output
from mirrorlog.settings import Settings

MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Serve metrics to Prometheus at http://HOST:PORT/metrics (docs/metrics.md). Port 0 "
        "takes a free port, which is printed. The default is 'off'.",
        metavar="HOST:PORT",
    ),
]


def with_metrics(settings: Settings, address: str | None) -> Settings:
    """Return the settings with the option's address, if there is one."""
    return settings if address is None else settings.model_copy(update={"metrics": address})


def metrics_printer(output: Output) -> Callable[[str], None]:
    """Return a function that prints where the metrics are."""

    def print_address(url: str) -> None:
        output.print_message("metrics", {"url": url})
        output.print_text(f"metrics at {url}")

    return print_address
