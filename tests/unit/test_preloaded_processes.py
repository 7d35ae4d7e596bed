"""Processes that are forked from a preloaded Python are as those that are started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from deadlines import DEADLINE_S
from preloaded_processes import forking, started_forker

from mirrorlog import __version__
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.processes.free_memory import use_system_memory

SELF = """
import json, os, signal, sys, threading, uuid
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path, "cwd": os.getcwd(),
    "environment": dict(os.environ), "stdin": sys.stdin.read(), "threads": threading.active_count(),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
    "session": os.getsid(0) == os.getpid(), "files": len(os.listdir("/proc/self/fd")),
}))
print("to stderr", file=sys.stderr)
threading.Thread(target=lambda: print("a thread ends")).start()
import atexit
atexit.register(print, "at exit")
"""
STARTS = """
import os, subprocess, sys, psutil
command = [sys.executable, "-m", "mirrorlog", *sys.argv[2:]]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    print(psutil.Process(process.pid).ppid() == os.getpid(), process.stdout.read(), end="")
print(process.returncode, subprocess.Popen._execute_child.__module__)
"""
MODULES = "import sys; print('faust' in sys.modules)\n"
BUFFERS = "import sys\nsys.stdout = open(1, 'w', closefd=False)\nprint('lost')\n"
# signal.pause() would wait for ever if Python had taken note of the signal just before it.
WAITS = "import time\nprint('ready', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
PARENT = """
import subprocess, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from preloaded_processes import forking, started_forker
from mirrorlog.processes.dies_with_parent import dies_with_parent
with started_forker() as forker, forking(forker, Path({folder!r})):
    command = dies_with_parent([sys.executable, {script!r}])
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    print(child.pid, child.stdout.readline(), flush=True)
    input()
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "itself.py").write_text(SELF)
    (folder / "modules.py").write_text(MODULES)
    (folder / "buffers.py").write_text(BUFFERS)
    (folder / "starts.py").write_text(STARTS)
    (folder / "waits.py").write_text(WAITS)
    (folder / "exits.py").write_text("import sys\nsys.exit(eval(sys.argv[1]))\n")
    (folder / "fails.py").write_text("raise ValueError('planned')\n")
    with started_forker() as forker, forking(forker, folder):
        yield folder


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, text=True, check=False, **pipes | options)


def is_preloaded(*arguments: object, **options: Any) -> bool:
    """Return whether such a process is forked: it then has Faust already."""
    return run(*arguments, **options).stdout == "True\n"


def test_what_a_command_sets_in_a_process_of_tests_ends_no_forking(
    scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    use_system_memory()
    assert is_preloaded(scripts / "modules.py")
    monkeypatch.setenv("LANG_OF_IMPORTS", "1")
    assert not is_preloaded(scripts / "modules.py")


@pytest.fixture(params=["forked", "started"])
def how(request: pytest.FixtureRequest, scripts: Path) -> dict[str, Any]:
    """Return options with which a process is forked, or is started."""
    options = {} if request.param == "forked" else {"umask": 0o22}
    assert is_preloaded(scripts / "modules.py", **options) is (request.param == "forked")
    return options


def test_a_forked_process_sees_what_a_started_one_sees(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRRORLOG_LEFT_OUT", "1")
    environment = dict(os.environ) | {"MIRRORLOG_ADDED": "ä"}
    del environment["MIRRORLOG_LEFT_OUT"]
    options = {"env": environment, "cwd": tmp_path, "start_new_session": True, "stdin": None}
    forked, started = (
        run(scripts / "itself.py", "-x", "y z", input="given", **options, **more)
        for more in ({}, {"umask": 0o22})
    )
    assert json.loads(forked.stdout.splitlines()[0]) == json.loads(started.stdout.splitlines()[0])
    assert forked.stdout.splitlines()[1:] == ["a thread ends", "at exit"]
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


@pytest.mark.parametrize(
    ("code", "expected"), [("None", 0), ("0", 0), ("7", 7), ("-1", 255), ("'why'", 1)]
)
def test_its_exit_code_is_that_of_python(
    scripts: Path, how: dict[str, Any], code: str, expected: int
) -> None:
    done = run(scripts / "exits.py", code, **how)
    assert (done.returncode, done.stderr) == (expected, "why\n" if code == "'why'" else "")


def test_an_error_that_nobody_catches_is_printed(scripts: Path, how: dict[str, Any]) -> None:
    done = run(scripts / "fails.py", **how)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: planned\n")


def test_output_that_cannot_be_written_is_an_error(scripts: Path, how: dict[str, Any]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(scripts / "buffers.py", stdout=full, **how)
    assert done.returncode == 120
    assert "No space left" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(scripts: Path, how: dict[str, Any], number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, str(scripts / "waits.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        **how,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert psutil.Process(process.pid).ppid() == os.getpid()
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == -number


def test_it_dies_with_its_parent_if_asked_to(scripts: Path) -> None:
    tests = str(Path(__file__).parents[1])
    code = PARENT.format(tests=tests, folder=str(scripts), script=str(scripts / "waits.py"))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, ready = parent.stdout.readline().split()
        assert ready == "ready"
        child = psutil.Process(int(pid))
        assert child.ppid() == parent.pid
        parent.kill()
        assert psutil.wait_procs([child], timeout=DEADLINE_S)[1] == []


def test_what_an_import_would_have_read_is_started(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules.py").write_text(MODULES)
    script = scripts / "modules.py"
    assert is_preloaded(script)
    assert is_preloaded(*dies_with_parent([sys.executable, str(script)])[1:])
    assert is_preloaded(script, env={**os.environ, "MIRRORLOG_PARTITIONS": "2"})
    for name in ("PYTHONHASHSEED", "COLUMNS", "FAUST_LOOP", "LC_ALL"):
        assert not is_preloaded(script, env={**os.environ, name: "1"}), name
    assert not is_preloaded(tmp_path / "modules.py")
    assert not is_preloaded("-c", MODULES)
    with Path("/dev/null").open() as null:
        assert not is_preloaded(script, pass_fds=[null.fileno()])
    assert not is_preloaded("-I", script)


@pytest.mark.parametrize(("name", "starter"), [("demo", "preloaded_processes"), ("", "subprocess")])
def test_the_parts_of_a_demo_are_forked_too(scripts: Path, name: str, starter: str) -> None:
    done = run(scripts / "starts.py", name, "--version")
    assert done.stdout == f"True mirrorlog {__version__}\n0 {starter}\n", done.stderr


def test_there_is_no_process_left_between_them(scripts: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    for _ in range(5):
        assert is_preloaded(scripts / "modules.py")
    assert set(psutil.Process().children(recursive=True)) == before
