"""The options `--fork` and `--fork-mode` of commands that run a host (docs/forked-writes.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.producers.forks.fork_states import ForkStateChange

ForkOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--fork",
        metavar="SITE[=URI]",
        help="Send each write to the secondary at this site, too. Repeatable. Without URI, the "
        "host uses the address in the volume's description. {volume} in URI is replaced by the "
        "volume's name.",
    ),
]
ForkModeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--fork-mode",
        metavar="MODE",
        help="Acknowledge a write when every secondary in the fork has it (sync), when N of them "
        "have it ('quorum N'), or at once (async).",
    ),
]


def fork_reporter(call: Invocation) -> Callable[[ForkStateChange], None]:
    """Return a function that prints each change of a secondary's state as a `fork` message."""

    def report(change: ForkStateChange) -> None:
        fields = {
            "volume": change.volume,
            "site": change.site,
            "state": change.state,
            "reason": change.reason,
        }
        call.output.print_message("fork", fields)

    return report
