"""The main job with real processes, also when one of them is killed with SIGKILL in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from deadlines import DEADLINE_S
from running import Outcome, wait_for_result, wait_for_writes
from suspending import suspend

from mirrorlog.cli.demo.run import Run
from mirrorlog.producers.traces import (
    count_dirty_blocks,
    demo_trace_path,
    open_trace,
    summarize_trace,
)

pytestmark = pytest.mark.integration

TRACE = demo_trace_path()


def demo(
    *arguments: str, state_dir: Path
) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    """Run `mirrorlog demo --json`; return the process and the last JSON object that it printed."""
    options = ["--state-dir", str(state_dir), "demo", "--json", *arguments]
    command = [sys.executable, "-m", "mirrorlog", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False
    )
    lines = done.stdout.splitlines()
    return done, json.loads(lines[-1]) if lines else {}


def test_the_demo_ends_identical_and_counts_what_the_trace_counts(tmp_path: Path) -> None:
    done, result = demo(state_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = summarize_trace(open_trace(TRACE))
    dirty = sum(count_dirty_blocks(open_trace(TRACE), 4096).values())
    assert (result["writes"], result["bytes_written"], result["volumes"]) == (
        summary.writes,
        summary.bytes_written,
        1,
    )
    assert (result["ok"], result["dirty_blocks"], result["block_size"]) == (True, dirty, 4096)
    live, late = result["sites"]
    assert all(
        site["identical"] and site["state"] == "CONSISTENT" and site["lag_s"] == 0
        for site in (live, late)
    )
    # The late site began when the host had ended, so it copied each dirty block once.
    assert (late["blocks_copied"], late["bytes_copied"]) == (dirty, dirty * 4096)
    assert list((tmp_path / "demo").glob("run-*")) == []


# file | writes, dirty blocks and volumes, as the README of the recordings counts them
RECORDINGS = """
cloudphysics/cloudPhysicsIO.vscsi   | 66898 208696 1
msr/msr-cambridge1-sample.csv       |   492    475 1
blkparse/nvme0n1.blktrace.txt       |   225    268 1
tencent/cloud_storage-sample.bz2    | 25479 209875 2038
"""


@pytest.mark.traces
@pytest.mark.long
@pytest.mark.parametrize(
    "case", RECORDINGS.strip().splitlines(), ids=lambda case: case.split("/")[0]
)
def test_real_recordings_end_identical(case: str, recordings: Path, tmp_path: Path) -> None:
    file, numbers = case.split("|")
    writes, dirty, volumes = (int(number) for number in numbers.split())
    done, result = demo("--trace", str(recordings / file.strip()), state_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (result["writes"], result["dirty_blocks"], result["volumes"]) == (writes, dirty, volumes)
    assert [site["identical"] for site in result["sites"]] == [True, True]
    assert result["sites"][1]["bytes_copied"] == dirty * 4096


@pytest.mark.parametrize(
    "part",
    [
        "node",
        "node and its store",
        "site-a",
        "host",
        pytest.param("broker", marks=pytest.mark.own_broker),
    ],
)
def test_a_part_killed_in_the_middle_and_started_again_ends_identical(part: str, run: Run) -> None:
    for start in (run.start_node, lambda: run.start_site("site-a")):
        start()
    run.wait_ready("node", "site-a")
    run.start_host(TRACE, "auto", "--speed", "1")
    wait_for_writes(run, 700)
    if part == "broker":
        assert run.broker is not None
        run.broker.kill()
        run.broker.start()
    else:
        name = part.split(maxsplit=1)[0]
        run.parts[name].kill()
        if part != name:
            shutil.rmtree(run.folder / "node")
        run.parts[name].start()
    result = wait_for_result(run)
    outcome = Outcome(run)
    dirty = outcome.dirty_blocks(result["last_positions"])
    run.start_site("site-b")
    for site in ("site-a", "site-b"):
        outcome.wait_consistent(site, result["last_positions"])
        assert outcome.identical(site)
    counted = sum(count_dirty_blocks(open_trace(TRACE), 4096).values())
    # After a crash of the host, every hot region counts as dirty. More is safe, less never is.
    assert dirty >= counted if part == "host" else dirty == counted
    assert outcome.reports["demo"].bytes_copied == dirty * 4096


def test_a_part_that_dies_ends_the_demo_and_leaves_nothing(tmp_path: Path) -> None:
    assert_ends(
        tmp_path,
        lambda parts: parts["node"].kill(),
        code=1,
        stderr_text="node ended with exit code -9",
    )


def test_interrupting_the_demo_leaves_nothing(tmp_path: Path) -> None:
    assert_ends(
        tmp_path, lambda parts: os.kill(parts["demo"].pid, signal.SIGINT), code=130, stderr_text=""
    )


def test_killing_the_demo_leaves_no_process(tmp_path: Path) -> None:
    assert_ends(
        tmp_path, lambda parts: parts["demo"].kill(), code=-9, stderr_text="", folder_removed=False
    )
    assert len(list((tmp_path / "demo").glob("run-*"))) == 1
    done, _ = demo("--trace", str(tmp_path / "missing"), state_dir=tmp_path)
    assert done.returncode == 2
    done, _ = demo("--sites", "1", state_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "demo").glob("run-*")) == []


def assert_ends(
    tmp_path: Path, act: object, *, code: int, stderr_text: str, folder_removed: bool = True
) -> None:
    # A shell lets its background jobs ignore SIGINT, and children inherit that.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from mirrorlog.cli.main import main; main()"
    command = [sys.executable, "-c", program, "--state-dir", str(tmp_path), "demo"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("node and sites"):
                break
        # The demo is suspended until `act` is done, so that it can't end before.
        running = psutil.Process(process.pid)
        suspend(running.pid)
        children = running.children(recursive=True)
        parts = {
            word: child
            for child in children
            for word in child.cmdline()
            if word in ("node", "site-a")
        }
        parts["demo"] = running
        assert len(children) >= 3
        act(parts)  # type: ignore[operator]
        with suppress(psutil.NoSuchProcess):
            running.resume()
        _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, stderr
    assert stderr_text in stderr
    _, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert alive == []
    if folder_removed:
        assert list((tmp_path / "demo").glob("run-*")) == []


BROKEN = {
    "missing": None,
    "empty": b"",
    "junk": os.urandom(4096),
    "truncated gzip": TRACE.read_bytes()[:5000],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recording_costs_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = BROKEN[name]
    if content is not None:
        trace.write_bytes(content)
    done, result = demo("--trace", str(trace), state_dir=tmp_path / "state")
    assert (done.returncode, result["code"]) == (2, "BadInput")
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(trace) in done.stderr
    assert not (tmp_path / "state").exists()
