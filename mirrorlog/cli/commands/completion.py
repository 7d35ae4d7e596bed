"""`mirrorlog completion`: a script that lets a shell complete commands and options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from mirrorlog.cli.support.completing import PROGRAM, VARIABLE
from mirrorlog.cli.support.global_options import given_options
from mirrorlog.cli.support.output import Output

app = typer.Typer()
SCHEMA_VERSION: Final = 1


class Shell(StrEnum):
    """A shell for which there is a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(
    context: typer.Context, shell: Annotated[Shell, typer.Argument(help="The shell.")]
) -> None:
    """Print a script with which a shell completes commands and options.

    For bash and zsh: `source <(mirrorlog completion bash)`; for fish: `mirrorlog completion fish |
    source`.
    """
    script = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value)
    output = Output.of(given_options(context))
    if output.json:
        output.print_json(
            {"schema_version": SCHEMA_VERSION, "shell": shell.value, "script": script}
        )
    else:
        output.print_text(script)
