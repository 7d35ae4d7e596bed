"""`mirrorlog audit chain`: grow the trees of the commands until it is stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.errors import BadUse, KafkaFailed

if TYPE_CHECKING:
    from mirrorlog.streams.chain.chain_builder import ChainedPartition

app = typer.Typer()

_TURN_S: Final = 5.0
_LOOK_S: Final = 0.1
_NICE: Final = 19


@app.command()
def chain(
    context: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="End when the trees are as long as the log is now.")
    ] = False,
    wait_for_lock: Annotated[
        bool,
        typer.Option(
            "--wait-for-lock", help="If another process grows the trees, wait for its end."
        ),
    ] = False,
    pid_file: DetachOption = None,
) -> None:
    """Grow the Merkle trees of the commands, which `audit seal` signs.

    The trees are in the folder of the setting chain_dir. A node with this setting runs this
    command by itself. It has the lowest priority, so it takes little from others.
    """
    call = invocation(context, waits=not once)
    from mirrorlog.cli.support.command_logs import chain_folder

    folder = chain_folder(call.settings)
    tell_ready = detach(pid_file, call.output)
    stopped = stop_flag()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    while not stopped():
        try:
            _grow(call, once=once, stopped=stopped, tell_ready=tell_ready)
            return
        except BadUse as error:
            if not wait_for_lock:
                raise
            call.output.print_text(f"waiting for {folder}: {error.what}")
            _pause(stopped)


def _grow(
    call: Invocation, *, once: bool, stopped: Callable[[], bool], tell_ready: Callable[[], None]
) -> None:
    """Grow the trees until `stopped`. Raise BadUse if another process has the folder."""
    from mirrorlog.cli.support.command_logs import chain_builder

    with chain_builder(call.settings) as builder:
        tell_ready()
        while not stopped():
            try:
                for grown in builder.advance():
                    if grown.added or grown.trouble or once:
                        call.output.print_message("tree", _fields(grown))
                        call.output.print_text(_line(grown))
            except KafkaFailed as error:
                if once:
                    raise
                call.output.print_text(f"Kafka doesn't answer: {error}")
            if once:
                return
            _pause(stopped)


def _pause(stopped: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _TURN_S
    while time.monotonic() < end_s and not stopped():
        time.sleep(_LOOK_S)


def _fields(grown: ChainedPartition) -> dict[str, object]:
    return {
        "partition": grown.partition,
        "added_leaves": grown.added,
        "leaves": grown.size,
        "position": grown.position,
        "complete_through": grown.through,
        "trouble": grown.trouble or None,
    }


def _line(grown: ChainedPartition) -> str:
    tree = "no tree" if grown.size is None else f"{grown.size} leaves, {grown.added} new"
    trouble = f": {grown.trouble}" if grown.trouble else ""
    return f"partition {grown.partition}: {tree}{trouble}"
