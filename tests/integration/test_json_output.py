"""With --json, stdout holds JSON and nothing else, from every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from command_line import run_main
from command_tree import command_tree, is_group, required_arguments

from mirrorlog.cli.demo.run import Run

pytestmark = pytest.mark.integration

RUN_UNTIL_STOPPED: Final = {
    "broker start",
    "dashboard",
    "demo",
    "host replay",
    "host serve",
    "node",
    "site run",
}
"""Commands that other tests run, as processes."""
ARGUMENTS: Final = {
    "volume create": ["v", "--size", "1MiB"],
    "volume show": ["v"],
    "log show": ["v"],
    "log rebuild": ["v", "--check"],
    "changed": ["v", "--since", "yesterday"],
    "topics tail": ["volumes"],
    "completion": ["bash"],
}
"""By command, what makes it do its work. All others get a word for what they can't do without."""
ANSWER_BY_CODE: Final = {"broker status", "check", "doctor"}
"""Commands whose exit code is an answer, and no error."""
SUCCEED: Final = {
    "topics create",
    "volume create",
    "volume list",
    "volume show",
    "log show",
    "changed",
    "topics list",
    "topics tail",
    "config show",
    "config check",
    "completion",
}


def test_stdout_holds_json_and_nothing_else(
    world: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # some of them write files
    for name, value in world.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    leaves = {" ".join(words): leaf for words, leaf in command_tree().items()}
    for command in sorted(leaves, key=lambda name: (name not in SUCCEED, name != "volume create")):
        if is_group(leaves[command]) or command in RUN_UNTIL_STOPPED:
            continue
        arguments = ARGUMENTS.get(command) or required_arguments(leaves[command])
        code, out, err = run_main([*command.split(), *arguments, "--json"])
        assert "Traceback" not in err, command
        assert code == 0 or command not in SUCCEED, (command, err)
        objects = [json.loads(line) for line in out.splitlines()]
        assert objects, command
        for fields in objects:
            assert "schema_version" in fields or "message_type" in fields, (command, fields)
        if code:
            assert code in (1, 2, 3, 4)
        if code and command not in ANSWER_BY_CODE:
            last = objects[-1]
            assert last["message_type"] == "error", command
            assert last.keys() >= {"code", "what", "where", "next"}, command
