"""`--fork` and `--fork-mode`: hosts that send their writes to secondaries, too (docs/forked-writes.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.producers.forks.fork_plans import ForkNews

ForkOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--fork",
        metavar="SITE[=URI]",
        help="Writes go to the secondary at this site, too; may be given more than once. Without URI to the address that the "
        "volume's description names; {volume} in it stands for the volume's name.",
    ),
]
ForkModeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--fork-mode",
        metavar="MODE",
        help="When a write is acknowledged: sync, when all secondaries in the fork have it; 'quorum N', when N of them do; "
        "async, at once.",
    ),
]


def fork_reporter(call: Invocation) -> Callable[[ForkNews], None]:
    """Return a function that prints each change of a secondary's state as a `fork` message."""

    def report(news: ForkNews) -> None:
        fields = {
            "volume": news.volume,
            "site": news.site,
            "state": news.state,
            "reason": news.reason,
        }
        call.output.print_message("fork", fields)

    return report
