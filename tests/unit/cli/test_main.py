"""The list of commands: a command is loaded when it runs, and is what the list says of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mirrorlog.cli.main import COMMANDS
from mirrorlog.cli.support.lazy_commands import LazyCommand

NOT_FOR_HELP = ("faust", "aiokafka", "confluent_kafka", "numpy", "pyroaring", "pydantic")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_lists_every_command_and_imports_no_role_and_no_client() -> None:
    code = (
        "import sys; sys.argv = ['mirrorlog', '--help']\n"
        "from mirrorlog.cli.main import main\n"
        "try: main()\n"
        f"finally: print([name for name in {NOT_FOR_HELP} if name in sys.modules], "
        "[name for name in sys.modules if name.startswith('mirrorlog.cli.commands.')])"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] []"
    for command in COMMANDS:
        assert f" {command.name} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_is_what_the_list_says_of_it(command: LazyCommand) -> None:
    loaded = command.load()
    assert loaded.help.split("\n\n")[0].replace("\n", " ") == command.summary
    if hasattr(loaded, "commands"):
        assert loaded.commands, "a group without a command"
    else:
        assert loaded.name == command.name


@pytest.mark.parametrize(
    ("arguments", "text"),
    [("nod", "Did you mean 'node'"), ("volume", "create"), ("node --htpp x", "--htpp")],
)
def test_a_wrong_command_is_bad_use_and_says_what_is_there(arguments: str, text: str) -> None:
    done = run_python(
        f"import sys; sys.argv = ['mirrorlog', *{arguments.split()}]\n"
        "from mirrorlog.cli.main import main; main()"
    )
    assert done.returncode == 2
    assert text in done.stdout + done.stderr
