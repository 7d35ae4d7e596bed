"""A group of commands whose modules are imported only when one of them runs.

Without this, each `mirrorlog` process would import the Kafka clients, numpy and every role.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer.core
import typer.main

from mirrorlog.cli.support.global_options import global_parameters


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command, or a group of commands, that isn't imported yet.

    name: what users type.
    module: the full name of its module. Its `app` (typer.Typer) holds either the one command
    `name`, or the commands of the group `name`.
    summary: what the list of commands says of it. Equals the help of the command or the group
    up to its first blank line.
    """

    name: str
    module: str
    summary: str

    def load(self) -> Any:
        """Import the module; return its command or group (of Click's type).

        It, and every command in it, takes the global options.
        """
        with _without_collector():
            group = typer.main.get_group(import_module(self.module).app)
        command = group.commands.get(self.name, group)
        _add_global_options(command)
        return command


@contextmanager
def _without_collector() -> Iterator[None]:
    """Import without the collector of cyclic garbage, which costs a sixth of an import's time.

    What a module makes as it is imported stays: the collector leaves it alone from then on, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _add_global_options(command: Any) -> None:
    command.params.extend(global_parameters())
    for name in getattr(command, "commands", ()):
        _add_global_options(command.commands[name])


def lazy_group(commands: Sequence[LazyCommand]) -> type[typer.core.TyperGroup]:
    """Return a group class that lists `commands` by their summaries and loads the one that runs."""
    by_name = {command.name: command for command in commands}

    class LazyGroup(typer.core.TyperGroup):
        """Holds a placeholder for each command until one is resolved."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            for command in commands:
                self.commands[command.name] = typer.core.TyperCommand(
                    command.name, help=command.summary
                )

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
            name, _, rest = super().resolve_command(ctx, args)
            return name, by_name[str(name)].load(), rest

    return LazyGroup
