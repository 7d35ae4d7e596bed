"""The Faust worker: it runs the node's app in this process."""

from __future__ import annotations

import faust


def run_worker(app: faust.App) -> None:
    """Run the app until SIGTERM or SIGINT, then stop it in order and return.

    Call it from the main thread: the worker installs handlers of signals. SystemExit(1) if the app
    fails to start.
    """
    # Logging stays as the program has set it up.
    worker = faust.Worker(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.spinner = None
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if ended.code:
            raise
