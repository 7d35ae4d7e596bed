"""`mirrorlog man`: the man pages of all commands, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.global_options import given_options
from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse

app = typer.Typer()


@app.command()
def man(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder, as in /usr/local/share/man/man1.")
    ],
) -> None:
    """Write a man page of each command into a folder, which is made if it isn't there.

    The pages say what --help says. Then `man mirrorlog-volume-create` finds its page.
    """
    from mirrorlog.cli.support.man_pages import man_pages

    pages = man_pages(context.find_root().command)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        raise BadUse(
            f"the man pages can't be written: {error.strerror}",
            where=str(folder),
            next="Name a folder that may be written to.",
        ) from error
    output = Output.of(given_options(context))
    output.print_json({"schema_version": 1, "dir": str(folder), "pages": sorted(pages)})
    output.print_text(f"{len(pages)} man pages are in {folder}")
