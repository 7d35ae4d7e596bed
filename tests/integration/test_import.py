"""`mirrorlog import` of each kind with the real command line.

The log is compared with an independent fold and with blocks that were counted by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from block_traces import blkparse_text, blktrace_bytes
from deadlines import DEADLINE_S
from folding import fold, read_all
from import_cases import KINDS, Q_WRITE, VALID, VALID_BLOCKS, event

from mirrorlog.changed.ask import ask_kafka
from mirrorlog.changed.formats import all_runs
from mirrorlog.changed.points import AtPosition
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.producers.traces import RequestKind, TracedRequest, write_trace

pytestmark = pytest.mark.integration

BLOCK = 4096
BLOCKS_APART = 10
"""The distance in blocks between the sources, each of which is shifted to blocks of its own."""


class Shell:
    """Runs the command line with a run's settings."""

    def __init__(self, run: Run) -> None:
        self.environment = {**os.environ, **run.settings.as_environment()}

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> Any:
        """Run a command, check its exit code, and return the last JSON that it printed."""
        command = [sys.executable, "-m", "mirrorlog", "--json", *arguments]
        completed = subprocess.run(
            command,
            capture_output=True,
            input=stdin,
            timeout=DEADLINE_S,
            check=False,
            env=self.environment,
        )
        assert completed.returncode == code, completed.stderr.decode()
        text = completed.stdout.decode()
        return json.loads(text if text.startswith("[\n") else text.splitlines()[-1])


def blocks(listing: list[dict[str, Any]]) -> set[int]:
    """Return the dirty blocks of a map of `mirrorlog changed`."""
    return {
        block
        for entry in listing
        if entry["dirty"]
        for block in range(entry["start"] // BLOCK, -(-(entry["start"] + entry["length"]) // BLOCK))
    }


def changed_between(run: Run, after: int, through: int) -> set[int]:
    answer = ask_kafka(run.settings, "v", AtPosition(after), AtPosition(through), DEADLINE_S)
    return blocks(
        [{"start": s.start, "length": s.length, "dirty": s.dirty} for s in all_runs(answer)]
    )


@pytest.mark.long
def test_the_log_has_what_each_kind_of_import_named(world: Run, tmp_path: Path) -> None:
    world.start_node()
    world.wait_ready("node")
    shell = Shell(world)
    shell("volume", "create", "v", "--size", "1MiB")
    kinds = {kind: (VALID[kind], VALID_BLOCKS[kind]) for kind in KINDS}
    write_trace(tmp_path / "m.mltrace", [TracedRequest("x", RequestKind.ZERO, BLOCK, BLOCK, 1)])
    kinds["mirrorlog"] = (tmp_path / "m.mltrace").read_bytes(), {1}
    everything = set[int]()
    for number, (kind, (content, named)) in enumerate(kinds.items()):
        path = tmp_path / f"source.{kind}"
        path.write_bytes(content)
        more = ["--partial"] if kind in ("qemu-map", "nbdinfo") else []
        more += ["--offset-shift", str(number * BLOCKS_APART * BLOCK), "--wait", "60s"]
        result = shell("import", kind, "v", "-" if number % 2 else str(path), *more, stdin=content)
        expected = {number * BLOCKS_APART + block for block in named}
        assert result["refused"] == 0
        assert result["statuses"] == {"ACCEPTED": result["commands"]}, kind
        assert (
            changed_between(world, result["first_position"] - 1, result["last_position"])
            == expected
        ), kind
        everything |= expected

    # A dry run publishes nothing, and neither does a source that is malformed or doesn't fit.
    described = find_volume(world.settings, "v")
    events = len(
        list(read_all(world.settings, world.settings.topics.commands, described.partition))
    )
    dry = shell("import", "extentlist", "v", "-", "--dry-run", stdin=VALID["extentlist"])
    assert (dry["dry_run"], dry["extents"], dry["session"], dry["first_position"]) == (
        True,
        2,
        None,
        None,
    )
    error = shell("import", "nbdinfo", "v", "-", stdin=VALID["nbdinfo"][:-1], code=2)
    assert "the standard input, record 3" in error["where"]
    assert (
        "aren't all inside"
        in shell("import", "extentlist", "v", "-", stdin=b"0 4096\n1M 1\n", code=2)["what"]
    )
    assert "is empty" in shell("import", "extentlist", "v", "-", stdin=b"", code=2)["what"]
    empty = shell("import", "extentlist", "v", "-", "--allow-empty", stdin=b"")
    assert (empty["extents"], empty["session"]) == (0, None)
    assert (
        "no volume 'w'"
        in shell("import", "extentlist", "w", "-", stdin=b"0 4096\n", code=2)["what"]
    )
    assert (
        len(list(read_all(world.settings, world.settings.topics.commands, described.partition)))
        == events
    )

    # Import the files of two CPUs, twice: the log is a union.
    cpus = [tmp_path / f"trace.blktrace.{cpu}" for cpu in (0, 1)]
    for cpu, path in enumerate(cpus):
        path.write_bytes(event(1, Q_WRITE, 8 * (200 + cpu), 512, cpu=cpu))
    for _ in range(2):
        shell("import", "blktrace", "v", *map(str, cpus), "--host", "db-1", "--wait", "60s")
    # Import a recording of a partition that begins at sector 2048 of its disk, in both forms.
    partition = "8-17 A W {0}+8 < 8-17 {1}; 8-17 Q W {0}+8".format(2048 + 8 * 202, 8 * 202)
    for kind, content in (
        ("blktrace", blktrace_bytes(partition)),
        ("blkparse", blkparse_text(partition)),
    ):
        result = shell("import", kind, "v", "-", "--wait", "60s", stdin=content)
        assert changed_between(world, result["first_position"] - 1, result["last_position"]) == {
            202
        }
    everything |= {200, 201, 202}

    listing = shell("changed", "v")["extents"]
    assert blocks(listing) == everything
    assert "db-1" in {host for entry in listing for host in entry["hosts"]}
    dirty, _ = fold(world.settings, {"v": described}, described.partition)["v"].sets()
    assert set(dirty) == everything
