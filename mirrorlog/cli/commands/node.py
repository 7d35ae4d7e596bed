"""`mirrorlog node`: the processing node."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.output import report_error


def node(
    context: typer.Context,
    http: Annotated[
        str | None,
        typer.Option(
            help="Where to answer over HTTP (docs/http.md); port 0 is a free one, 'off' none. 127.0.0.1:0 unless set.",
            metavar="HOST:PORT",
        ),
    ] = None,
) -> None:
    """Run the processing node (a Faust worker) until it is stopped.

    It folds the tracking commands into the log and answers each. It commits nothing that the log doesn't hold: where
    the log can't be written it stops, and goes on from there when it is started again.
    """
    call = invocation(context)
    # `import faust` reads the command line: it gets to see a bare one, and only here.
    sys.argv = sys.argv[:1]
    from mirrorlog.streams.faust_worker.worker import run_node

    logging.getLogger("stamina").setLevel(logging.WARNING)  # who holds back says so

    def ready(url: str | None, partitions: Sequence[int]) -> None:
        call.output.print_message("ready", {"partitions": list(partitions), "http": url})
        place = f"; {url}/docs" if url else ""
        call.output.print_text(
            f"the node is ready; partitions {', '.join(map(str, partitions)) or 'none'}{place}"
        )

    def failed(error: BaseException) -> None:
        report_error(error, as_json=call.output.json, verbose=call.verbose)

    settings = (
        call.settings if http is None else call.settings.model_copy(update={"node_http": http})
    )
    run_node(settings, ready, failed)
