"""A group whose default command runs if the first argument names none of its commands."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Annotated

import pytest
import typer
import typer.main

from mirrorlog.cli.support.lazy_commands import LazyCommand, lazy_group

COMMANDS = (
    LazyCommand("volume", "test_lazy_default", "Show a volume."),
    LazyCommand("seal", "test_lazy_default", "Seal."),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Return what the commands of the group were called with: name, volume, --since."""
    made: list[tuple[str, str, str]] = []
    app = typer.Typer()

    @app.command()
    def volume(name: str, since: Annotated[str, typer.Option()] = "") -> None:
        """Show a volume."""
        made.append(("volume", name, since))

    @app.command()
    def seal() -> None:
        """Seal."""
        made.append(("seal", "", ""))

    module = ModuleType("test_lazy_default")
    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def run(arguments: str) -> None:
    group = typer.Typer(cls=lazy_group(COMMANDS, default="volume"))

    @group.callback()
    def callback(
        json: Annotated[bool, typer.Option("--json")] = False,
        option: Annotated[str, typer.Option("-X", "--extra")] = "",
    ) -> None:
        """Stand for the global options."""

    command = typer.main.get_group(group)
    command.main(arguments.split(), standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("vol1", ("volume", "vol1", "")),
        ("seal", ("seal", "", "")),
        ("volume seal", ("volume", "seal", "")),
        ("--since 2h vol1", ("volume", "vol1", "2h")),
        ("vol1 --since 2h", ("volume", "vol1", "2h")),
        ("--json -X seal vol1", ("volume", "vol1", "")),
        ("--json -Xseal vol1", ("volume", "vol1", "")),
        ("--json --extra=a seal", ("seal", "", "")),
        ("-X a --since 2h seal", ("volume", "seal", "2h")),
        ("-- seal", ("volume", "seal", "")),
    ],
)
def test_the_default_command_takes_what_names_no_command(
    calls: list[tuple[str, str, str]], arguments: str, expected: tuple[str, str, str]
) -> None:
    run(arguments)
    assert calls == [expected]


def test_help_is_that_of_the_group(
    calls: list[tuple[str, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run("--help")
    assert calls == []
    assert "Show a volume." in capsys.readouterr().out
