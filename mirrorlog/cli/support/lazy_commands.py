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


def lazy_group(commands: Sequence[LazyCommand], default: str = "") -> type[typer.core.TyperGroup]:
    """Return a group class that lists `commands` by their summaries and loads the one that runs.

    default: the command that runs if the first argument names none of them.
    """
    by_name = {command.name: command for command in commands}

    class LazyGroup(typer.core.TyperGroup):
        """Holds a placeholder for each command until one is resolved."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            for command in commands:
                self.commands[command.name] = typer.core.TyperCommand(
                    command.name, help=command.summary
                )

        def load_commands(self) -> dict[str, Any]:
            """Load and return every command, by its name."""
            return {command.name: command.load() for command in commands}

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if default in by_name:
                place = _place_of_command(self, args)
                if place is not None and (place == len(args) or args[place] not in by_name):
                    args = [*args[:place], default, *args[place:]]
            return super().parse_args(ctx, args)

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
            name, _, rest = super().resolve_command(ctx, args)
            return name, by_name[str(name)].load(), rest

    return LazyGroup


def _place_of_command(group: Any, args: Sequence[str]) -> int | None:
    """Return the index in `args` at which a command of the group would be named.

    It is the first argument that is no option of the group. None if the arguments end before it, or
    ask for the group's help.
    """
    flags = {name: param.is_flag for param in group.params for name in param.opts}
    index = 0
    while index < len(args):
        argument = args[index]
        if argument in ("-h", "--help"):
            return None
        name = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
        if not argument.startswith("-") or name not in flags:
            return index
        takes_next = not flags[name] and argument == name
        index += 2 if takes_next else 1
    return None
