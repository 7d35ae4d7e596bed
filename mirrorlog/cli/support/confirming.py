"""Commands that give something up for good: they ask first, or only say what it would cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.errors import BadUse

YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask for a confirmation.")]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything, say what it would cost, and do nothing."),
]


def is_confirmed(
    call: Invocation,
    name: str,
    cost: str,
    *,
    yes: bool,
    dry_run: bool,
    kind: str = "volume",
    facts: Mapping[str, object] | None = None,
) -> bool:
    """Return whether to go on. With `dry_run`, print what it would cost, and return False.

    kind, name: of what it is about. cost: what is given up, in sentences. facts: what JSON has of
    it, too. Without `yes`, ask on the terminal: abort (exit 130) if the answer is no. Raise BadUse
    if there is no terminal to ask on.
    """
    if dry_run:
        fields = {"schema_version": 1, "dry_run": True, kind: name, "cost": cost.strip()}
        call.output.print_json({**fields, **(facts or {})})
        call.output.print_text(f"Nothing was done. It would cost this: {cost.strip()}")
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        what = f"this needs your confirmation. {cost.strip().rstrip('.')}"
        raise BadUse(what, next="Say --yes, or --dry-run to check only.")
    typer.confirm(f"{cost.strip()} Go on?", abort=True, err=True)
    return True
