"""The primary burns down, a site takes its place, and the former primary comes back."""

from __future__ import annotations

import json
import os
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
import sys
from mirrorlog.producers import open_volume
volume = open_volume("v")
for line in sys.stdin:
    volume.pwrite(b"old", int(line), fua=True)
    print("written", flush=True)
"""


def shell(run: Run, *arguments: str, code: int = 0, **settings: object) -> dict[str, Any]:
    """Run a command, which must end with `code`; return the last JSON object that it prints."""
    done = run_cli(run.settings.model_copy(update=settings), *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def wait_for(
    run: Run,
    site: str,
    state: SiteState,
    generation: str,
    holds: tuple[Path, int, bytes] | None,
    through: int = -1,
) -> Any:
    """Wait until a site reports a state of a generation, and a file holds bytes at an offset.

    through: a report of CONSISTENT must name this position, or a later one.
    """
    follower = ProgressFollower(run.settings)
    until = time.monotonic() + DEADLINE_S
    try:
        while True:
            report = follower.reports.get((site, "v"))
            is_late = report is not None and (report.consistent_position or 0) >= through
            if report and report.state is state and report.generation == generation and is_late:
                path, offset, data = holds or (Path(__file__), 0, b"")
                if path.read_bytes()[offset:].startswith(data):
                    return report
            assert time.monotonic() < until, report
            follower.poll(0.2)
            run.check()
    finally:
        follower.close()


def test_a_site_takes_the_place_of_a_primary_and_the_former_one_follows_it(
    run: Run, tmp_path: Path
) -> None:
    run.start_node()
    run.wait_ready("node")
    created = shell(run, "volume", "create", "v", "--size", "1MiB")
    run.start_site("b")
    run.wait_ready("b")
    environment = {**os.environ, **run.settings.as_environment()}
    with subprocess.Popen(
        [sys.executable, "-c", HOST],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdin is not None and host.stdout is not None
        host.stdin.write("0\n")
        host.stdin.flush()
        assert host.stdout.readline() == "written\n"
        new = run.folder / "b" / "v.img"
        wait_for(run, "b", SiteState.CONSISTENT, created["generation"], (new, 0, b"old"), 1)
        host.send_signal(signal.SIGKILL)

    there = {"state_dir": tmp_path / "state-b"}
    promote = ("promote", "v", "--site", "b", "--dir", str(run.folder / "b"))
    promoted = shell(run, *promote, "--yes", **there)
    assert promoted["primary_site"] == "b" and promoted["generation"] != created["generation"]
    assert promoted["primary"] == new.as_uri()
    assert promoted["lost"]["is_complete"]
    wait_for(run, "b", SiteState.DETACHED, promoted["generation"], None)
    refused = shell(run, "host", "serve", "v", "--primary", created["primary"], code=2)
    assert "isn't the volume's primary" in refused["what"]

    with open_volume("v", run.settings.model_copy(update=there)) as volume:
        assert volume.pread(3, 0) == b"old"
        volume.pwrite(b"new", 8192)
    listed = shell(run, "divergence", "v")
    assert listed["current"]["blocks"] >= 1

    old = Path(created["primary"][7:])
    rejoin = ("rejoin", "v", "--site", "a", "--dir", str(run.folder / "a"), "--yes")
    assert not shell(run, *rejoin)["copies_all"]
    run.start_site("a")
    run.wait_ready("a")
    wait_for(run, "a", SiteState.CONSISTENT, promoted["generation"], (old, 8192, b"new"))
    assert old.read_bytes() == new.read_bytes()

    failback = ("failback", "v", "--site", "a", "--dir", str(run.folder / "a"), "--yes")
    back = shell(run, *failback, "--former-dir", str(run.folder / "b"), **there)
    assert (back["primary_site"], back["lost"]["blocks"]) == ("a", 0)
    with open_volume("v", run.settings.model_copy(update=there)) as volume:
        volume.pwrite(b"back", 16384)
    report = wait_for(run, "b", SiteState.CONSISTENT, back["generation"], (new, 16384, b"back"))
    assert report.rung == "changed"
    assert old.read_bytes() == new.read_bytes()
