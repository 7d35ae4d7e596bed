"""`mirrorlog demo`: the main job in one go.

A host replays a recording of block writes and publishes tracking commands. The node folds them
into the log. Sites read the changed blocks from the primary, and end identical to it. Every part
is a process of its own.
"""

from __future__ import annotations

import signal
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.demo.plan import differences, make_plan
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.demo.stages import play
from mirrorlog.cli.demo.view import DemoView
from mirrorlog.cli.demo.workspace import remove_topics, work_folder
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.errors import BadUse, DifferenceFound
from mirrorlog.producers.traces import demo_trace_path
from mirrorlog.settings import Settings

app = typer.Typer()


@app.command()
def demo(
    context: typer.Context,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Replay this recording. Without it, the demo's own is replayed.", metavar="FILE"
        ),
    ] = None,
    trace_format: Annotated[
        str,
        typer.Option(
            "--format", help="Read this format: auto, vscsi, msr, tencent, blkparse or mirrorlog."
        ),
    ] = "auto",
    sites: Annotated[
        int,
        typer.Option(
            min=1,
            max=16,
            help="Run this many sites. Of two or more, the last joins when the host has ended.",
        ),
    ] = 2,
    block_size: Annotated[
        str, typer.Option("--block-size", help="Track volumes with this granularity.")
    ] = "4KiB",
    keep: Annotated[
        Path | None,
        typer.Option(help="Work in this new folder, and keep it.", metavar="DIR"),
    ] = None,
) -> None:
    """Run broker, node, host and sites on a real recording, and check every copy.

    With --bootstrap-servers, it uses that cluster instead of a Kafka of its own.
    """
    call = invocation(context, waits=True)
    output = call.output
    settings, own_broker = _cluster(call)
    view = DemoView(output)
    plan = make_plan(trace or demo_trace_path(), trace_format, block_size, sites)
    signal.signal(signal.SIGTERM, _interrupt)
    if own_broker:
        _check_no_security(settings)
    with work_folder(keep, settings.state_dir) as folder, view, ExitStack() as stack:
        if not own_broker and keep is None:
            stack.callback(remove_topics, settings, view)
        run = stack.enter_context(Run(folder, settings, own_broker=own_broker))
        result = play(run, plan, view)
    view.print_result(result, keep)
    output.print_json(result)
    if not result["ok"]:
        raise DifferenceFound(
            "the run didn't end as it must",
            where=differences(result, plan),
            next="Run it again with --keep DIR and look at what is in DIR.",
        )


def _cluster(call: Invocation) -> tuple[Settings, bool]:
    """Return the run's settings, and whether it needs a broker of its own.

    On a cluster that the user names, the run has topics of
    its own: a new prefix.
    """
    settings = call.settings
    if settings.servers.given_by is None:
        return settings, True
    prefix = f"{settings.topic_prefix}demo-{uuid.uuid4().hex[:8]}."
    return settings.model_copy(update={"topic_prefix": prefix}), False


def _check_no_security(settings: Settings) -> None:
    """Raise BadUse if the Kafka client settings ask for TLS or SASL."""
    if any(name.startswith(("security.", "sasl.", "ssl.")) for name in settings.kafka):
        raise BadUse(
            "the demo's own Kafka knows neither TLS nor SASL",
            next="Name your cluster: --bootstrap-servers.",
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
