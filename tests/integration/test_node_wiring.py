"""A node that a Python program runs, without the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from folding import Proof
from writing import StatusTimes, Writer, make_volumes

from mirrorlog.cli.demo.run import Run
from mirrorlog.processes.dies_with_parent import dies_with_parent

pytestmark = pytest.mark.integration

# Prints the worker's address and its partitions, and that the call has returned.
PROGRAM = """
import json, sys
from mirrorlog.settings import load_settings
from mirrorlog.streams import run_node

arguments = list(sys.argv)
run_node(load_settings(), on_ready=lambda *ready: print(json.dumps(ready), flush=True))
print(json.dumps(["returned", sys.argv == arguments]), flush=True)
"""


@pytest.mark.parametrize("world", [{"partitions": 1}], indirect=True, ids=[""])
def test_a_program_runs_a_node_which_returns_when_it_is_stopped(world: Run, tmp_path: Path) -> None:
    volumes = make_volumes(world.settings, {"v": 1 << 20})
    writer, answers = Writer(world.settings, volumes), StatusTimes(world.settings)
    environment = {**os.environ, **world.settings.as_environment()}
    # Arguments that `import faust` would take for its own, if it saw them.
    arguments = ["--datadir", str(tmp_path / "elsewhere"), "--loop", "nonsense"]
    with (
        (tmp_path / "program.log").open("w+") as log,
        subprocess.Popen(
            dies_with_parent([sys.executable, "-c", PROGRAM, *arguments]),
            env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
        ) as program,
    ):  # fmt: skip
        try:
            assert program.stdout is not None
            ready = program.stdout.readline()
            assert ready, (tmp_path / "program.log").read_text()
            url, partitions = json.loads(ready)
            assert url.startswith("http://127.0.0.1:")
            assert partitions == [0]
            writer.send("v", 5)
            writer.close()
            answers.wait_for(writer.sent_at)
            program.send_signal(signal.SIGTERM)
            output, _ = program.communicate(timeout=DEADLINE_S)
        finally:
            program.kill()
    answers.close()
    assert program.returncode == 0, (tmp_path / "program.log").read_text()
    assert json.loads(output.splitlines()[-1]) == ["returned", True]
    assert not (tmp_path / "elsewhere").exists()
    Proof(world.settings).all({0: world.settings.node_folder.name})
