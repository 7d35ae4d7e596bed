"""The folder of a worker: one process at a time, whatever the worker's name is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import DEADLINE_S

from mirrorlog.errors import BadUse, DeviceFailed, ExitCode, KafkaFailed
from mirrorlog.settings import Settings, default_node_name
from mirrorlog.streams import run_node
from mirrorlog.streams.node_folder import open_node_folder


def test_the_default_name_is_the_machines(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert settings.node_name.startswith("node-")
    assert socket.gethostname()[:8].partition(".")[0].strip("-") in settings.node_name
    assert settings.node_folder == tmp_path / settings.node_name


def test_a_second_worker_is_refused_before_it_asks_kafka_and_told_who_runs(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, node_name="n", bootstrap_servers="127.0.0.1:1")
    folder = open_node_folder(settings)
    with pytest.raises(BadUse, match=f"named 'n' runs already.*process {os.getpid()} on ") as error:
        run_node(settings)
    assert error.value.exit_code is ExitCode.BAD_USE
    assert ", since 2" in str(error.value)
    folder.close()
    with pytest.raises(KafkaFailed):
        run_node(settings.model_copy(update={"patience_s": 1.0}))
    open_node_folder(settings).close()


def test_workers_of_one_name_have_different_names_in_the_group(tmp_path: Path) -> None:
    """On other machines, and on a copy of the folder. A restart keeps its name."""
    here = Settings(state_dir=tmp_path / "here", node_name="n")
    there = Settings(state_dir=tmp_path / "there", node_name="n")
    first = open_node_folder(here)
    first.close()
    shutil.copytree(here.state_dir, tmp_path / "copy")
    copied = open_node_folder(Settings(state_dir=tmp_path / "copy", node_name="n"))
    other = open_node_folder(there)
    again = open_node_folder(here)
    assert again.instance == first.instance
    assert len({again.instance, other.instance, copied.instance}) == 3
    for folder in (copied, other, again):
        folder.close()


def test_the_folder_of_an_earlier_release_is_taken_over(tmp_path: Path) -> None:
    table = tmp_path / "node" / "v1" / "tables" / "log-0.db"
    table.mkdir(parents=True)
    (table / "LOCK").write_bytes(b"")
    settings = Settings(state_dir=tmp_path)
    assert settings.node_folder == tmp_path / "node"
    # A lock of fcntl(2) belongs to a process.
    script = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    script += "print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(table / "LOCK")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(BadUse, match="a worker of an earlier release"):
            open_node_folder(settings)
        holder.communicate(timeout=DEADLINE_S)
    folder = open_node_folder(settings)
    assert folder.path == tmp_path / default_node_name() == settings.node_folder
    assert (folder.path / "v1" / "tables" / "log-0.db").is_dir()
    assert not (tmp_path / "node").exists()
    folder.close()


def test_a_name_that_was_set_leaves_the_old_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    open_node_folder(Settings(state_dir=tmp_path, node_name="n")).close()
    assert (tmp_path / "node").is_dir()
    open_node_folder(Settings(state_dir=tmp_path, node_name="node")).close()
    assert (tmp_path / "node" / "lock").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceFailed, match=str(tmp_path / "file")):
        open_node_folder(Settings(state_dir=tmp_path / "file", node_name="n"))
