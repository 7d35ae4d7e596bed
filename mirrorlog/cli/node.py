"""`mirrorlog node`: the processing node."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import typer

from mirrorlog.cli.context import invocation


def node(context: typer.Context) -> None:
    """Run the processing node (a Faust worker) until it is stopped.

    It folds the tracking commands into the log and answers each. It commits nothing that the log doesn't hold: where
    the log can't be written it stops, and goes on from there when it is started again.
    """
    call = invocation(context)
    # `import faust` reads the command line: it gets to see a bare one, and only here.
    sys.argv = sys.argv[:1]
    from mirrorlog.cli.main import tell
    from mirrorlog.streams.worker import run_node

    logging.getLogger("stamina").setLevel(logging.WARNING)  # who holds back says so

    def ready(partitions: Sequence[int]) -> None:
        call.output.message("ready", {"partitions": list(partitions)})
        call.output.say(f"the node is ready; partitions {', '.join(map(str, partitions)) or 'none'}")

    def failed(error: BaseException) -> None:
        tell(error, as_json=call.output.json, verbose=call.verbose)

    run_node(call.settings, ready, failed)
