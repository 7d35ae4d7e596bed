"""Every command of the command line, found by walking its tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mirrorlog.cli.main import COMMANDS


@cache
def command_tree() -> Mapping[tuple[str, ...], Any]:
    """Return every command and group (Click's), by the words that name it."""
    return {
        words: command for lazy in COMMANDS for words, command in _walk((lazy.name,), lazy.load())
    }


def is_group(command: Any) -> bool:
    """Return whether commands belong to it."""
    return hasattr(command, "commands")


def is_lazy(command: Any) -> bool:
    """Return whether it is a group whose commands are loaded one by one."""
    return hasattr(command, "load_commands")


def required_arguments(command: Any) -> list[str]:
    """Return a word for each argument and option that the command can't do without."""
    options = [param for param in command.params if param.required]
    named = [[param.opts[-1], "x"] for param in options if param.param_type_name == "option"]
    return [word for pair in named for word in pair] + [
        "x" for param in options if param.param_type_name == "argument"
    ]


def _walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    children = command.load_commands() if is_lazy(command) else getattr(command, "commands", {})
    for name, child in children.items():
        yield from _walk((*words, name), child)
