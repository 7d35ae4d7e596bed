"""The list of commands: a command is loaded when it runs, and is what the list says of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mirrorlog.cli.main import COMMANDS
from mirrorlog.cli.support.lazy_commands import LazyCommand

HEAVY = (
    "aiohttp",
    "aiokafka",
    "asyncio",
    "confluent_kafka",
    "dateparser",
    "fastavro",
    "faust",
    "jgo",
    "numpy",
    "prometheus_client",
    "psutil",
    "pydantic",
    "pyroaring",
    "rocksdict",
    "stamina",
)
"""What neither the help nor the version needs."""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def imported(arguments: str) -> tuple[str, set[str]]:
    """Return what a command printed, and the names of the modules that it imported."""
    done = run_python(
        f"import sys; sys.argv = ['mirrorlog', *{arguments.split()}]\n"
        "from mirrorlog.cli.main import main\n"
        "try: main()\n"
        "finally: print('imported', *sys.modules)"
    )
    assert done.returncode == 0, done.stderr
    printed, _, names = done.stdout.rpartition("imported ")
    return printed, set(names.split())


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    printed, modules = imported("--help")
    assert modules & set(HEAVY) == set()
    assert not [name for name in modules if name.startswith("mirrorlog.cli.commands.")]
    for command in COMMANDS:
        assert f" {command.name} " in printed


@pytest.mark.parametrize("arguments", ["--version", "--version --json"])
def test_the_version_imports_nothing_heavy(arguments: str) -> None:
    _, modules = imported(arguments)
    assert modules & {*HEAVY, "rich", "importlib.metadata"} == set()


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        ("volume list --help", {"faust", "aiokafka", "aiohttp", "rocksdict", "dateparser", "jgo"}),
        ("status --help", {"faust", "aiohttp", "rocksdict", "urllib.request"}),
        ("changed --help", {"faust", "aiokafka", "aiohttp", "rocksdict", "dateparser", "jgo"}),
        ("config show", {"faust", "aiokafka", "aiohttp", "numpy", "fastavro", "rich"}),
        ("broker status --help", {"faust", "numpy", "fastavro", "aiohttp"}),
        ("completion bash", {"numpy", "pydantic_settings", "confluent_kafka", "rich"}),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: str, unneeded: set[str]) -> None:
    _, modules = imported(arguments)
    assert modules & unneeded == set()


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


RAISED = """
raise KeyboardInterrupt                                        | 130
raise ValueError('from a library') from KeyboardInterrupt()    | 130
raise ValueError('a defect')                                   | 1
"""


@pytest.mark.parametrize("case", RAISED.strip("\n").splitlines())
def test_an_interruption_is_one_also_if_a_library_wraps_it(case: str) -> None:
    statement, code = (part.strip() for part in case.split("|"))
    done = run_python(
        "import sys; sys.argv = ['mirrorlog', 'config', 'show']\n"
        "from mirrorlog.cli import main\n"
        f"def app(**_): {statement}\n"
        "main.app = app; main.main()"
    )
    assert done.returncode == int(code), done.stderr
    assert ("Traceback" in done.stderr) is (code == "1")
