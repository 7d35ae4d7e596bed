"""Man pages of the commands, from the same texts as their help (roff, man(7))."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import typer
import typer.core

from mirrorlog import __version__
from mirrorlog.cli.support.global_options import global_parameters

_CONTROL: Final = re.compile(r"^([.'])", re.MULTILINE)
_WORDS: Final = {
    "str": "TEXT",
    "path": "PATH",
    "int": "NUMBER",
    "int range": "NUMBER",
    "float": "NUMBER",
    "float range": "NUMBER",
}
"""What the value of an option is called if it has no name of its own."""
_EXIT: Final = (
    ("0", "success"),
    ("1", "failure"),
    ("2", "bad use or bad input"),
    ("3", "the log no longer reaches that far"),
    ("4", "a difference was found"),
    ("130", "interrupted"),
)


def man_pages(root: Any) -> dict[str, str]:
    """Return a page for each command below `root` (Click's group), and one for itself, by file.

    The files are of section 1: `mirrorlog.1`, `mirrorlog-volume-create.1` and so on.
    """
    of_all = [set(param.opts) for param in global_parameters()]
    return {f"{'-'.join(words)}.1": _page(words, command, of_all) for words, command in _walk(root)}


def _walk(command: Any, words: tuple[str, ...] = ("mirrorlog",)) -> Iterator[tuple[Any, Any]]:
    yield words, command
    for name, child in _children(command).items():
        if not child.hidden:
            yield from _walk(child, (*words, name))


def _children(command: Any) -> Mapping[str, Any]:
    if hasattr(command, "load_commands"):
        loaded: Mapping[str, Any] = command.load_commands()
        return loaded
    commands: Mapping[str, Any] = getattr(command, "commands", {})
    return commands


def _page(words: tuple[str, ...], command: Any, of_all: Sequence[set[str]]) -> str:
    """Return the page of a command. of_all: the names of each option that all commands take."""
    children, is_root = _children(command), len(words) == 1
    name = "-".join(words)
    paragraphs = _paragraphs(command.help or "")
    own = [param for param in command.params if is_root or set(param.opts) not in of_all]
    lines = [
        f'.TH "{_escaped(name.upper())}" "1" "" "mirrorlog {__version__}" "mirrorlog"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_first_sentence(paragraphs))}",
        ".SH SYNOPSIS",
        *_synopsis(words, own, has_children=bool(children)),
        ".SH DESCRIPTION",
        "\n.PP\n".join(map(_escaped, paragraphs)),
    ]
    arguments = [param for param in own if param.param_type_name == "argument"]
    options = [param for param in own if param.param_type_name == "option"]
    lines += _section("ARGUMENTS", [(_bold(_metavar(param)), param.help) for param in arguments])
    lines += _section("OPTIONS", [(_names(param), _help_of(param)) for param in options])
    lines += _section(
        "COMMANDS",
        [
            (_bold(child_name), _first_sentence(_paragraphs(child.help or "")))
            for child_name, child in children.items()
            if not child.hidden
        ],
    )
    if is_root:
        lines += _section("EXIT STATUS", [(_bold(code), meaning) for code, meaning in _EXIT])
    else:
        lines += [".SH GLOBAL OPTIONS", "Every command takes those of", ".BR mirrorlog (1)."]
    lines += [".SH SEE ALSO", _see_also(words, children)]
    return "\n".join(lines) + "\n"


def _synopsis(words: tuple[str, ...], params: list[Any], *, has_children: bool) -> list[str]:
    arguments = [_metavar(param) for param in params if param.param_type_name == "argument"]
    required = [
        f"{_bold(param.opts[-1])} {_italic(_metavar(param))}"
        for param in params
        if param.param_type_name == "option" and param.required
    ]
    command = _italic("COMMAND") if has_children else ""
    parts = ["[" + _italic("OPTIONS") + "]", command, *map(_italic, arguments), *required]
    return [_bold(" ".join(words)), " ".join(filter(None, parts))]


def _section(title: str, entries: list[tuple[str, str | None]]) -> list[str]:
    if not entries:
        return []
    lines = [f".SH {title}"]
    for term, text in entries:
        lines += [".TP", term, _escaped(" ".join((text or "").split())) or "\\&"]
    return lines


def _names(param: Any) -> str:
    names = ", ".join(map(_bold, [*param.opts, *param.secondary_opts]))
    return names if param.is_flag else f"{names} {_italic(_metavar(param))}"


def _metavar(param: Any) -> str:
    if param.metavar:
        return str(param.metavar).rstrip(".")
    if param.param_type_name == "argument":
        return str(param.name).upper()
    shown = str(param.display_type(typer.Context(typer.core.TyperCommand("mirrorlog"))))
    kind = shown.strip("[]<>")
    return _WORDS.get(kind, kind)


def _help_of(param: Any) -> str:
    """Return the help of an option, with its default if it has one that says something."""
    help_text = (param.help or "").strip()
    default = getattr(param.default, "value", param.default)
    if param.is_flag or callable(default) or default in (None, "", (), []):
        return help_text
    return f"{help_text} Default: {default}."


def _paragraphs(text: str) -> list[str]:
    paragraphs = [" ".join(part.split()) for part in text.replace("\f", "").split("\n\n")]
    return [paragraph for paragraph in paragraphs if paragraph]


def _first_sentence(paragraphs: list[str]) -> str:
    return paragraphs[0].rstrip(".") if paragraphs else ""


def _see_also(words: tuple[str, ...], children: Mapping[str, Any]) -> str:
    named = ["-".join(words[:-1])] if len(words) > 1 else []
    named += ["-".join((*words, name)) for name, child in children.items() if not child.hidden]
    return "\n".join(
        f".BR {_escaped(name)} (1){',' if name != named[-1] else ''}" for name in named
    )


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_escaped(text)}\\fR"


def _escaped(text: str) -> str:
    """Return text as roff shows it: its backslashes, hyphens, and dots at the start of a line."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return _CONTROL.sub(r"\\&\1", plain)
