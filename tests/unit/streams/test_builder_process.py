"""The child that grows the trees is started again, and ends with its node."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
from deadlines import wait_until

from mirrorlog.settings import load_settings
from mirrorlog.streams.chain.builder_process import NICE, BuilderProcess

CHILD = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], str(os.getpid())).write_text(os.environ["MIRRORLOG_CHAIN_DIR"])
time.sleep(600)
"""


def test_a_child_is_started_again_and_stopped(tmp_path: Path) -> None:
    settings = load_settings(None, {"chain_dir": tmp_path / "trees"})
    seen = tmp_path / "seen"
    seen.mkdir()
    builder = BuilderProcess(
        settings, command=(sys.executable, "-c", CHILD, str(seen)), restart_s=0.01
    )
    builder.start()
    try:
        (first,) = wait_until(lambda: list(seen.iterdir()))
        wait_until(lambda: first.read_text() == str(tmp_path / "trees"))
        child = psutil.Process(int(first.name))
        wait_until(lambda: child.nice() == NICE)
        child.kill()
        files = wait_until(lambda: len(list(seen.iterdir())) == 2 and list(seen.iterdir()))
        pids = [int(file.name) for file in files]
    finally:
        builder.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids)
