"""A volume moves to another host, whose predecessor is dead and can't be reached."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from deadlines import DEADLINE_S
from running import run_cli

from mirrorlog.cli.demo.proof import ProgressFollower
from mirrorlog.cli.demo.run import Run
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.producers import open_volume

pytestmark = pytest.mark.integration

HOST = """
import sys, time
from mirrorlog.producers import open_volume
volume = open_volume("v")
volume.pwrite(b"first", 0, fua=True)
print("written", flush=True)
sys.stdin.read()
"""


def shell(run: Run, *arguments: str, code: int = 0, **settings: object) -> dict[str, Any]:
    """Run a command, which must end with `code`; return the last JSON object that it prints."""
    done = run_cli(run.settings.model_copy(update=settings), *arguments)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def kill_a_host(run: Run) -> None:
    """Let a host write, and kill it."""
    environment = {**os.environ, **run.settings.as_environment()}
    with subprocess.Popen(
        [sys.executable, "-c", HOST],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"written\n"
        host.send_signal(signal.SIGKILL)


def test_a_volume_moves_away_from_a_host_that_is_gone(run: Run, tmp_path: Path) -> None:
    run.start_node()
    run.wait_ready("node")
    old = Path(shell(run, "volume", "create", "v", "--size", "1MiB")["primary"][7:])
    shell(run, "volume", "create", "w", "--size", "1MiB", "--primary", str(old), code=2)
    run.start_site("site-a")
    run.wait_ready("site-a")
    kill_a_host(run)

    new = tmp_path / "new" / "v.img"
    new.parent.mkdir()
    shutil.copy(old, new)
    old.unlink()  # the old machine is gone
    move = ("volume", "move", "v", "--primary", str(new), "--yes")
    there = {"state_dir": tmp_path / "new-state"}
    refused = shell(run, *move, code=2, **there)
    session = refused["next"].partition("--take-over ")[2].partition(",")[0]
    moved = shell(run, *move, "--take-over", session, **there)
    assert moved["primary"] == new.as_uri()

    with open_volume("v", run.settings.model_copy(update=there)) as volume:
        volume.pwrite(b"second", 4096)
    wait_mirrored(run, new)


def test_a_host_that_does_not_come_back_is_recovered(run: Run) -> None:
    run.start_node()
    run.wait_ready("node")
    refused = shell(run, "host", "recover", "v", code=2)
    assert "no host 'host-v' ran here" in refused["what"]
    primary = Path(shell(run, "volume", "create", "v", "--size", "16MiB")["primary"][7:])
    kill_a_host(run)
    primary.rename(primary.with_suffix(".away"))
    left = shell(run, "host", "recover", "v", code=1)
    assert "v may hold writes that aren't published" in left["what"]

    primary.with_suffix(".away").rename(primary)
    recovered = shell(run, "host", "recover", "v")
    (volume,) = recovered["recovered"]
    assert (volume["volume"], volume["whole_volume"]) == ("v", False)
    assert (volume["regions"], recovered["left"], recovered["damaged"]) == (1, [], False)
    again = shell(run, "host", "recover", "--host", "host-v")
    assert (again["recovered"], again["left"]) == ([], [])
    # No session is open any more: the volume may move without --take-over.
    shell(run, "volume", "move", "v", "--primary", str(primary), "--yes")


def wait_mirrored(run: Run, primary: Path) -> None:
    """Wait until the site is consistent, and its secondary equals the primary."""
    follower, secondary = ProgressFollower(run.settings), run.folder / "site-a" / "v.img"
    until = time.monotonic() + DEADLINE_S
    try:
        while True:
            report = follower.reports.get(("site-a", "v"))
            is_consistent = report is not None and report.state is SiteState.CONSISTENT
            if is_consistent and secondary.read_bytes() == primary.read_bytes():
                return
            assert time.monotonic() < until, report
            follower.poll(0.2)
            run.check()
    finally:
        follower.close()
