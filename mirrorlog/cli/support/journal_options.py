"""The options of `site run` that say whether cycles are staged in a journal, and where."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_size


class Consistency(StrEnum):
    """What a crash, a cut wire or a dead primary leaves of a secondary that was consistent."""

    CRASH = "crash"
    EVENTUAL = "eventual"


ConsistencyOption = Annotated[
    Consistency | None,
    typer.Option(
        help="crash: stage each cycle in a journal, and apply it as a whole, so that a secondary "
        "stays at a consistent position. eventual: apply it while it is read (the default)."
    ),
]
JournalOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep the journals in this folder, for example on a disk of their own. Without it, "
        "in the folder `journals` of the site's state.",
    ),
]
JournalMaxOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The largest journal of a secondary (1GiB). A larger cycle is applied in place.",
    ),
]


def with_journal(
    call: Invocation, consistency: Consistency | None, folder: Path | None, most: str | None
) -> Invocation:
    """Return the invocation with these options in its settings. Raise BadUse for a bad one."""
    chosen: dict[str, object] = {}
    if consistency is not None:
        chosen["site_consistency"] = str(consistency)
    if folder is not None:
        chosen["site_journal_dir"] = folder.absolute()
    if most is not None:
        chosen["site_journal_bytes"] = _at_least_a_mebibyte(parse_size(most))
    return replace(call, settings=call.settings.model_copy(update=chosen))


def _at_least_a_mebibyte(size_bytes: int) -> int:
    if size_bytes < 1 << 20:
        raise BadUse("a journal needs at least 1MiB", next="Give --journal-max a larger size.")
    return size_bytes
