"""The command line of mirrorlog.processes.dies_with_parent, without processes."""

from __future__ import annotations

import os
import sys

import pytest

from mirrorlog.processes.dies_with_parent import dies_with_parent, main


def test_a_command_is_wrapped_for_this_process() -> None:
    wrapped = dies_with_parent(["java", "-x", "--signal"], signal_name="TERM")
    assert wrapped[0] == sys.executable
    assert wrapped[-6:] == ["--signal", "TERM", str(os.getpid()), "java", "-x", "--signal"]
    assert dies_with_parent(["x"])[-4:] == ["--signal", "KILL", str(os.getpid()), "x"]


@pytest.mark.parametrize(
    "line", ["", "1", "x true", "-1 true", "--signal", "--signal HUP 1 true", "--signal KILL 1"]
)
def test_bad_use_is_exit_2_and_runs_nothing(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err
