"""The global options, which every command and every group takes, before its name and after it.

They are declared once, as the parameters of read_global_options(). LazyCommand.load() adds them to
each command that it loads, so that no command's file names them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mirrorlog import __version__

PANEL: Final = "Global options"
SCHEMA_VERSION: Final = 1


@dataclass(slots=True)
class GivenOptions:
    """The global options of one call, as far as its command line is parsed.

    arguments: the command line. values: by name, each option that was given; of one that was given
    twice the later value, and of `-X` all. invocation: what they amount to (support/context.py),
    once a command has asked for it.
    """

    arguments: Sequence[str] = ()
    values: dict[str, Any] = field(default_factory=dict)
    invocation: Any = None

    def note(self, name: str, value: Any) -> None:
        """Note an option that was given."""
        if isinstance(value, list | tuple):
            value = [*self.values.get(name, ()), *value]
        self.values[name] = value

    @property
    def json(self) -> bool:
        """Return whether `--json` is given, also behind the place where parsing stopped."""
        return bool(self.values.get("json")) or self._is_among_arguments("--json")

    @property
    def verbose(self) -> bool:
        """Return whether `-v` is given, also behind the place where parsing stopped."""
        given = bool(self.values.get("verbose"))
        return given or self._is_among_arguments("-v") or self._is_among_arguments("--verbose")

    def _is_among_arguments(self, option: str) -> bool:
        arguments = list(self.arguments)
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return option in options


def given_options(context: typer.Context) -> GivenOptions:
    """Return the global options of the call, which main() has put into `context`."""
    given = context.find_root().obj
    if not isinstance(given, GivenOptions):  # a caller that isn't main()
        given = GivenOptions()
        context.find_root().obj = given
    return given


def _note(context: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Note the value of a global option wherever it is given."""
    if value and not context.resilient_parsing:
        given_options(context).note(str(param.name), value)
    return value


def _print_version(context: typer.Context, value: bool) -> None:
    """Print the version and end."""
    if not value or context.resilient_parsing:
        return
    if given_options(context).json:
        import json

        fields = {
            "schema_version": SCHEMA_VERSION,
            "version": __version__,
            "python": platform.python_version(),
        }
        typer.echo(json.dumps(fields))
    else:
        typer.echo(f"mirrorlog {__version__}")
    raise typer.Exit()


def _option(*names: str, **more: Any) -> Any:
    """Return one global option (Typer's OptionInfo)."""
    return typer.Option(*names, callback=_note, expose_value=False, rich_help_panel=PANEL, **more)


def read_global_options(
    config: Annotated[
        Path | None, _option("-c", "--config", help="Read settings from this TOML file.")
    ] = None,
    client_file: Annotated[
        Path | None,
        _option("-F", help="Read Kafka settings from this file."),
    ] = None,
    client_options: Annotated[
        list[str] | None,
        _option("-X", help="Set one Kafka setting. Repeatable."),
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        _option("--bootstrap-servers", help="Use the Kafka at HOST:PORT,…"),
    ] = None,
    state_dir: Annotated[
        Path | None, _option("--state-dir", help="Keep state in this folder.")
    ] = None,
    json: Annotated[bool, _option("--json", help="Print JSON, and text on stderr.")] = False,
    quiet: Annotated[bool, _option("-q", "--quiet", help="Print no text.")] = False,
    verbose: Annotated[
        bool, _option("-v", "--verbose", help="Print log lines and tracebacks.")
    ] = False,
    no_color: Annotated[bool, _option("--no-color", help="Print without colours.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "-V",
            "--version",
            callback=_print_version,
            expose_value=False,
            is_eager=True,
            rich_help_panel=PANEL,
            help="Print the version, and end.",
        ),
    ] = False,
) -> None:
    """Declare the global options. Their values are in given_options(), not in these parameters."""


@cache
def global_parameters() -> tuple[Any, ...]:
    """Return the global options as parameters of a command (Click's type).

    They are the same objects each time: parsing leaves no state in a parameter.
    """
    app = typer.Typer()
    app.callback()(read_global_options)
    return tuple(
        param
        for param in typer.main.get_group(app).params
        if getattr(param, "rich_help_panel", None) == PANEL
    )
