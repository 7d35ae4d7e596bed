"""A configuration file with every setting, its meaning, what it accepts and its default."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from mirrorlog.setting_errors import variable_of
from mirrorlog.settings import Settings, setting_form

_WIDTH: Final = 100
_OF_MACHINE: Final = {
    "state_dir": "~/.local/state/mirrorlog (the user's state folder, XDG)",
    "cache_dir": "~/.cache/mirrorlog (the user's cache folder, XDG)",
    "node_name": "node- and the machine's name",
}
"""Defaults that differ from machine to machine, in words."""
_INSTEAD: Final[Mapping[str, object]] = {
    "state_dir": "/var/lib/mirrorlog",
    "cache_dir": "/var/cache/mirrorlog",
    "node_name": "node-1",
}
"""What the file shows in their place."""
_UNITS: Final = {"_s": "seconds", "_bytes": "bytes"}
_HEAD: Final = """\
# Settings of mirrorlog: `mirrorlog -c FILE …`, or each as a variable MIRRORLOG_NAME, which
# overrules the file. A line without its first # sets what it says; as it is here, each setting has
# its default. `mirrorlog config check -c FILE` finds what is wrong, `config show` says what holds.
"""


def example_text() -> str:
    """Return the file: TOML in which each setting is commented out.

    Each is preceded by what it means, as the class Settings says, its unit, what it accepts and its
    default. Tables (`kafka`) come last, because all that follows a table's head belongs to it.
    """
    meanings = _meanings()
    names = sorted(Settings.model_fields, key=lambda name: _default(name) == {})
    return "\n".join([_HEAD, *(_entry(name, meanings.get(name, "")) for name in names)])


def _meanings() -> dict[str, str]:
    """Return the text below each setting in the source of Settings, by the setting's name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body
    assert isinstance(definition, ast.ClassDef)
    meanings: dict[str, str] = {}
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            meanings[before.target.id] = " ".join(str(after.value.value).split())
    return meanings


def _entry(name: str, meaning: str) -> str:
    lines = [line for text in _comments(name, meaning) for line in _comment(text)]
    default = _shown(name)
    if default == {}:
        return "\n".join([*lines, f"#[{name}]", ""])
    return "\n".join([*lines, f"#{name} = {_toml(default)}", ""])


def _comments(name: str, meaning: str) -> Iterator[str]:
    if meaning:
        yield meaning
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    form = setting_form(name)
    accepts = form.accepts
    in_unit = f", in {unit}" if unit else ""
    secret = " It is a secret, and never shown." if form.is_secret else ""
    yield f"Accepts {accepts}{in_unit}. Default: {_default_in_words(name)}.{secret}"
    yield f"Variable: {variable_of(name)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _default(name: str) -> Any:
    return Settings.model_fields[name].get_default(call_default_factory=True)


def _default_in_words(name: str) -> str:
    default = _default(name)
    if name in _OF_MACHINE:
        return _OF_MACHINE[name]
    if default is None or default in ("", (), {}):
        return "none"
    return _toml(default)


def _shown(name: str) -> object:
    """Return a value that the setting accepts: its default, or one in its place if that is none."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    default = _default(name)
    if default is not None:
        return default
    return (
        f"/etc/mirrorlog/{name}" if Path in get_args(Settings.model_fields[name].annotation) else 0
    )


def _toml(value: object) -> str:
    """Return a value as TOML: JSON is, for texts, numbers, booleans and lists."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
