"""Answers the shell that asks for completions, through the script of `mirrorlog completion`."""

from __future__ import annotations

from typing import Final

from typer.completion import completion_init  # type: ignore[attr-defined]

PROGRAM: Final = "mirrorlog"
VARIABLE: Final = "_MIRRORLOG_COMPLETE"
"""The environment variable by which the script asks, named as Typer looks for it. It is no
setting."""


def prepare_completion() -> None:
    """Make Typer able to answer in the shells that it knows. It takes 2 ms."""
    completion_init()
