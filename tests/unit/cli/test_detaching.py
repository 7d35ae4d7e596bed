"""`--detach`: when the shell has its prompt back, and what it sees until then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from deadlines import DEADLINE_S

from mirrorlog.cli.support.detaching import detach
from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import typer
from mirrorlog.cli.support.detaching import detach
from mirrorlog.cli.support.output import Output
output = Output(json={as_json})
try:
    tell_ready = detach(Path("part.pid"), output)
    output.print_text("it starts")
    {body}
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


def start(folder: Path, body: str, *, as_json: bool = False) -> subprocess.Popen[str]:
    """Start a part with `--detach part.pid` in `folder`; `body` is what it does."""
    program = PROGRAM.format(body="\n    ".join(body.splitlines()), as_json=as_json)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_the_shell_goes_on_when_the_part_is_ready_and_the_part_goes_on_without_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "part.log").write_text("of an earlier run\n")
    body = "tell_ready()\ntell_ready()\nprint('it goes on')\nsignal.pause()"
    shell = start(tmp_path, body)
    # The pipes end although the part lives: it keeps neither of them open.
    stdout, stderr = shell.communicate(timeout=DEADLINE_S)
    pid = int((tmp_path / "part.pid").read_text())
    part = psutil.Process(pid)
    try:
        assert (shell.returncode, stdout) == (0, "")
        assert stderr.startswith("it starts\n")
        assert f"process {pid} goes on in the background; its output: part.log\n" in stderr
        assert os.getsid(pid) == pid != os.getsid(0)
        until = time.monotonic() + DEADLINE_S
        while "it goes on\n" not in (tmp_path / "part.log").read_text():
            assert time.monotonic() < until
        assert (tmp_path / "part.log").read_text().startswith("of an earlier run\nit starts\n")
    finally:
        part.kill()
        psutil.wait_procs([part], timeout=DEADLINE_S)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("pass", 0),
    ],
)
def test_a_part_that_ends_before_it_is_ready_gives_its_code_and_its_output(
    body: str, code: int, tmp_path: Path
) -> None:
    shell = start(tmp_path, body)
    stdout, stderr = shell.communicate(timeout=DEADLINE_S)
    assert (shell.returncode, stdout, stderr) == (code, "", "it starts\n")
    assert not (tmp_path / "part.pid").exists()


def test_json_goes_to_stdout_and_text_to_stderr(tmp_path: Path) -> None:
    shell = start(
        tmp_path, "output.print_message('error', {'code': 'BadUse'})\nsys.exit(2)", as_json=True
    )
    stdout, stderr = shell.communicate(timeout=DEADLINE_S)
    assert (shell.returncode, stderr) == (2, "it starts\n")
    assert json.loads(stdout) == {"message_type": "error", "code": "BadUse"}


def test_an_interrupted_shell_ends_the_part(tmp_path: Path) -> None:
    shell = start(tmp_path, "signal.pause()")
    assert shell.stderr is not None
    assert shell.stderr.readline() == "it starts\n"
    (part,) = psutil.Process(shell.pid).children()
    shell.send_signal(signal.SIGINT)
    shell.communicate(timeout=DEADLINE_S)
    assert shell.returncode not in (0, None)
    _, alive = psutil.wait_procs([part], timeout=DEADLINE_S)
    assert alive == []
    assert not (tmp_path / "part.pid").exists()


def test_a_log_file_that_cannot_be_written_is_bad_use(tmp_path: Path) -> None:
    with pytest.raises(BadUse, match=r"can't be written: No such file") as error:
        detach(tmp_path / "missing" / "part.pid", Output())
    assert error.value.where == str(tmp_path / "missing" / "part.log")
