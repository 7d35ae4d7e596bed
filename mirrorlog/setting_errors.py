"""What is wrong with a setting, in words: where it comes from, its value, and what is accepted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from mirrorlog.errors import BadUse

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PREFIX: Final = "MIRRORLOG_"
"""The beginning of the name of an environment variable that is a setting."""
VARIABLES_OF_TESTS: Final = frozenset(
    {"MIRRORLOG_FUZZ_MINUTES", "MIRRORLOG_SOAK_MINUTES", "MIRRORLOG_TRACES"}
)
"""Variables with the prefix that mirrorlog's own tests read, and that are no settings."""
_MAX_SHOWN: Final = 60
_VALUE_ERROR: Final = "Value error, "
"""What pydantic puts before the text of a validator's ValueError."""


class Origin(StrEnum):
    """Where the value of a setting comes from. A later one overrules an earlier one.

    EMBEDDED_BROKER: the servers are those of the state folder's broker.
    """

    DEFAULT = "default"
    EMBEDDED_BROKER = "embedded broker"
    FILE = "file"
    ENVIRONMENT = "environment"
    OPTION = "option"


@dataclass(frozen=True, slots=True)
class SettingForm:
    """What is known of a setting besides its value.

    accepts: the values that it accepts, in words. is_secret: its value isn't to be shown.
    """

    accepts: str
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The configuration file as it was read: its name, and its text (TOML)."""

    name: str
    text: str

    def place_of(self, setting: str) -> str:
        """Return FILE:LINE of the line that sets it or begins its table; FILE if none is found."""
        pattern = re.compile(rf"""\s*(\[\s*)?["']?{re.escape(setting)}["']?\s*[=.\]]""")
        for number, line in enumerate(self.text.splitlines(), 1):
            if pattern.match(line):
                return f"{self.name}:{number}"
        return self.name


_ACCEPTED: Final = {
    "kafka": 'a table of client settings; in the environment, JSON like {"acks": "all"}',
    "node_tiers_s": "1 to 3 numbers of seconds, each larger than the one before; in the "
    "environment, JSON like [60, 3600, 86400]",
    "node_keep_s": 'a table of seconds by tier; in the environment, JSON like {"hour": 86400}',
    "node_name": "letters, digits, '.', '_' and '-', at most 200, the first a letter or digit",
}
"""What settings accept of which the type doesn't say it."""
_KINDS: Final = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    bool: "true or false",
}


_CONTAINERS: Final[Mapping[Any, str]] = {tuple: "a list", dict: "a table"}


def form_of(name: str, field: FieldInfo) -> SettingForm:
    """Return what is known of the setting `name`, which pydantic describes as `field`.

    A setting that isn't to be shown (repr=False) is a secret.
    """
    return SettingForm(_ACCEPTED.get(name) or _accepted(field), is_secret=not field.repr)


def _accepted(field: FieldInfo) -> str:
    """Return in words what a setting accepts, by its type and its bounds."""
    choices = get_args(field.annotation)
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(map(str, choices))}"
    if get_origin(field.annotation) in _CONTAINERS:
        return f"{_CONTAINERS[get_origin(field.annotation)]}; in the environment, as JSON"
    kinds = [_KINDS[kind] for kind in choices or (field.annotation,) if kind in _KINDS]
    bounds = {
        name: getattr(bound, name)
        for bound in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(bound, name)
    }
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    return " ".join([*kinds, *(f"{words[name]} {value}" for name, value in bounds.items())])


def variable_of(setting: str) -> str:
    """Return the environment variable that is the setting."""
    return f"{PREFIX}{setting.upper()}"


def unknown_variables(names: Iterable[str], settings: Collection[str]) -> list[BadUse]:
    """Return an error for each variable with mirrorlog's prefix that is no setting.

    names: of the environment's variables. settings: the names of all settings.
    """
    known = {variable_of(setting) for setting in settings}
    return [
        BadUse(
            f"{name} in the environment is no setting of mirrorlog",
            where="environment",
            next=_advice(name.upper(), known, f"unset {name}"),
        )
        for name in sorted(names)
        if name.upper().startswith(PREFIX) and name.upper() not in known | VARIABLES_OF_TESTS
    ]


def unknown_in_file(
    names: Iterable[str], settings: Collection[str], file: SettingsFile
) -> list[BadUse]:
    """Return an error for each name in the configuration file that is no setting."""
    return [
        BadUse(
            f"'{name[:_MAX_SHOWN]}' is no setting of mirrorlog",
            where=file.place_of(name),
            next=_advice(name, settings, "remove it"),
        )
        for name in sorted(set(names) - set(settings))
    ]


def wrong_value(
    setting: str,
    value: object,
    problem: str,
    origin: Origin,
    file: SettingsFile,
    form: SettingForm,
) -> BadUse:
    """Return the error for a value that a setting doesn't accept.

    problem: what a check of mirrorlog's own says of it; empty if what is accepted says it all.
    file: where the value may be from.
    """
    match origin:
        case Origin.ENVIRONMENT:
            name, where, advice = variable_of(setting), "environment", "Correct it, or unset it."
        case Origin.FILE:
            name, where = setting, file.place_of(setting)
            advice = "Correct it, or remove it."
        case _:
            name, where = setting, "command line"
            advice = f"Correct --{setting.replace('_', '-')}."
    shown = "" if form.is_secret else f" is {_shown(value)}, which"
    verdict = f"isn't accepted: {problem}" if problem else "isn't accepted"
    return BadUse(f"{name}{shown} {verdict}; it accepts {form.accepts}", where=where, next=advice)


def problem_of(error: Mapping[str, Any]) -> str:
    """Return what a validator of mirrorlog's own says in one of pydantic's error entries."""
    text = str(error["msg"])
    return text.removeprefix(_VALUE_ERROR) if text.startswith(_VALUE_ERROR) else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _advice(name: str, known: Collection[str], otherwise: str) -> str:
    by_end = {setting.removeprefix(PREFIX): setting for setting in known}
    nearest = get_close_matches(name.removeprefix(PREFIX), by_end, n=1)
    hint = f"Did you mean {by_end[nearest[0]]}? " if nearest else ""
    every = "`mirrorlog config show` lists all settings."
    return f"{hint}Correct the name, or {otherwise}: {every}"
