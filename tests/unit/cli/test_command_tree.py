"""Every command and every group: the global options, and JSON with --json, errors included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run_main
from command_tree import command_tree, is_group, required_arguments

from mirrorlog.cli.support.global_options import global_parameters

GLOBAL_OPTIONS = {option for param in global_parameters() for option in param.opts}


ALL = command_tree()
WITHOUT_SETTINGS = {("completion",), ("config", "example"), ("man",)}
LEAVES = [
    words
    for words, command in ALL.items()
    if not is_group(command) and words not in WITHOUT_SETTINGS
]
"""All commands that use the settings."""


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_takes_each_global_option_once(words: tuple[str, ...]) -> None:
    options = [option for param in ALL[words].params for option in param.opts]
    assert set(options) >= GLOBAL_OPTIONS
    assert sorted(options) == sorted(set(options)), "an option of the command is a global one"


def test_the_global_options_are_a_group_of_the_help() -> None:
    for words in ((), ("volume",), ("volume", "list")):
        code, shown, _ = run_main([*words, "--help"])
        assert code == 0
        assert shown.count(" Global options ") == 1
        assert shown.count("--bootstrap-servers ") == 1
        assert "…" not in shown.replace("HOST:PORT,…", ""), "the help is cut"


@pytest.mark.parametrize("place", ["before", "between", "after"])
@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_an_error_is_the_last_json_object_wherever_json_is_said(
    words: tuple[str, ...], place: str
) -> None:
    wrong = ["--json", "-X", "not-a-pair"]
    rest = [*words[1:], *required_arguments(ALL[words])]
    arguments = {
        "before": [*wrong, words[0], *rest],
        "between": [words[0], *wrong, *rest],
        "after": [words[0], *rest, *wrong],
    }[place]
    code, out, err = run_main(arguments)
    assert code == 2, err
    last = json.loads(out.splitlines()[-1])
    assert {"message_type": "error", "code": "BadUse", "where": "-X"}.items() <= last.items()
    assert {"what", "next"} <= last.keys()


@pytest.mark.parametrize(
    "arguments",
    [
        "--json nod",
        "nod --json",
        "volume --json",
        "volume create --json",
        "volume --json list --bogus",
        "volume list --json --state-dir",
        "demo --sites 99 --json",
    ],
)
def test_a_wrong_command_line_is_a_json_error(arguments: str) -> None:
    code, out, err = run_main(arguments.split())
    error = json.loads(out)
    assert code == 2
    assert error["message_type"] == "error"
    assert error["code"] == "BadUse"
    assert error["what"]
    assert "--help" in error["next"]
    assert "Error: " in err


def test_json_behind_two_dashes_is_no_option() -> None:
    code, out, _ = run_main(["volume", "list", "--bogus", "--", "--json"])
    assert (code, out) == (2, "")


@pytest.mark.parametrize("arguments", ["--version", "-V", "volume --version"])
def test_the_version(arguments: str) -> None:
    code, text, _ = run_main(arguments.split())
    assert (code, text.split()[0]) == (0, "mirrorlog")
    code, as_json, _ = run_main([*arguments.split(), "--json"])
    assert code == 0
    assert f"mirrorlog {json.loads(as_json)['version']}\n" == text


def test_options_before_and_after_add_up(tmp_path: Path) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    arguments = ["--state-dir", str(early), "-X", "a=b", "broker", "--json", "status"]
    _, out, _ = run_main([*arguments, "--state-dir", str(late), "-X", "c=d"])
    assert json.loads(out)["state_dir"] == str(late / "broker"), "the later one wins"


@pytest.mark.parametrize(
    "words",
    [words for words, command in ALL.items() if not is_group(command) and words[0] != "import"],
    ids=" ".join,
)
def test_the_page_of_commands_names_every_command(words: tuple[str, ...]) -> None:
    page = Path(__file__).parents[3] / "docs" / "commands.md"
    cells = [line.split("|")[1] for line in page.read_text("utf-8").splitlines() if "| `" in line]
    of_group = len(words) > 1
    named = [
        [name.removeprefix(f"{words[0]} " if of_group else "").split()[0] for name in names]
        for names in (cell.split("`")[1::2] for cell in cells)
        if names[0].split()[0] == words[0] or not of_group
    ]
    assert any(words[-1] in names for names in named)
