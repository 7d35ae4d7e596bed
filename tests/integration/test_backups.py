"""Backups by the command line, of a primary that a host serves and of a site's secondary."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from deadlines import DEADLINE_S, wait_until
from exporting import exported
from qemu_images import check_content
from running import run_cli

from mirrorlog.adapters.addresses import open_device
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.opening import open_repository

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE, BLOCK, VOLUME = 2 << 20, 4096, "base"


class Backups:
    """The repository of a run, and what each of its points must read as."""

    def __init__(self, world: Run, uri: str) -> None:
        self.world, self.uri, self.folder = world, uri, world.folder / "backups"
        self.random, self.content = Random(7), bytearray(SIZE)
        self.contents: dict[str, bytes] = {}

    def write_some(self) -> None:
        with open_device(self.uri, writable=True) as device:
            for _ in range(6):
                block = self.random.randrange(SIZE // BLOCK)
                data = self.random.randbytes(BLOCK)
                device.pwrite(block * BLOCK, data)
                self.content[block * BLOCK : (block + 1) * BLOCK] = data
            block = self.random.randrange(SIZE // BLOCK)
            device.zero(offset=block * BLOCK, length=BLOCK)
            self.content[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
            device.flush()

    def arguments(self, *options: str | Path) -> list[str]:
        return ["backup", VOLUME, "--to", str(self.folder), *map(str, options)]

    def take(self, *options: str | Path) -> dict[str, Any]:
        """Take a point with the command; return what it says of it."""
        ended = run_cli(self.world.settings, *self.arguments(*options))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        point: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        assert point["message_type"] == "point"
        self.contents[point["point"]] = bytes(self.content)
        return point

    def from_primary(self, *options: str | Path) -> dict[str, Any]:
        return self.take("--primary", f"{VOLUME}={self.uri}", *options)

    def from_site(self, *options: str | Path) -> dict[str, Any]:
        wait_until_consistent(self.world.settings, VOLUME, DEADLINE_S)
        folder = self.world.folder / "berlin"
        return self.take("--from-site", "berlin", "--dir", folder, *options)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Run a command on the repository; return the last object that it prints."""
        ended = run_cli(self.world.settings, *arguments, "--repo", str(self.folder))
        assert ended.returncode == 0, ended.stdout + ended.stderr
        answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return answer

    def check(self) -> None:
        """Check each point byte for byte, by our own reader and by qemu-img."""
        raw = self.world.folder / "expected"
        with open_repository(self.world.settings, str(self.folder)) as repository:
            catalog = repository.catalog(VOLUME)
            assert [record.point for record in catalog.points] == list(self.contents)
            for name, content in self.contents.items():
                with open_point(repository, catalog, name, reads_all=True) as device:
                    assert device.size_bytes == SIZE
                    assert device.pread(offset=0, length=SIZE) == content, name
                raw.write_bytes(content)
                if shutil.which("qemu-img") is not None:
                    check_content(self.folder / "volumes" / VOLUME / f"{name}.qcow2", raw)


def kill_while_frozen(backups: Backups, mark: Path) -> None:
    """Kill a backup with -9 while it has the lock, and wait until what it froze is thawed."""
    arguments = backups.arguments(
        "--primary",
        f"{VOLUME}={backups.uri}",
        "--before",
        f"touch {mark}; sleep {DEADLINE_S}",
        "--after",
        f"rm {mark}",
        "--hook-timeout-s",
        str(DEADLINE_S),
    )
    environment = {**os.environ, **backups.world.settings.as_environment()}
    process = subprocess.Popen([sys.executable, "-m", "mirrorlog", *arguments], env=environment)
    try:
        wait_until(mark.exists)
        refused = run_cli(backups.world.settings, *backups.arguments())
        assert refused.returncode == 2, refused.stdout
        assert "another process writes to the repository" in refused.stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    wait_until(lambda: not mark.exists())


def run_until_a_point(backups: Backups) -> dict[str, Any]:
    """Run `backup run` until it has taken a point, and end it with SIGTERM. Return the point."""
    arguments = ["backup", "run", VOLUME, "--to", str(backups.folder), "--every", "1h"]
    environment = {**os.environ, **backups.world.settings.as_environment()}
    command = [sys.executable, "-m", "mirrorlog", "--json", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        messages = (json.loads(line) for line in process.stdout)
        point: dict[str, Any] = next(one for one in messages if one["message_type"] == "point")
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        process.stdout.close()
    backups.contents[point["point"]] = bytes(backups.content)
    return point


@pytest.mark.parametrize("world", [{"node_http": "off"}], indirect=True, ids=[""])
def test_points_of_a_primary_and_of_a_site_restore_byte_for_byte(world: Run) -> None:
    world.start_node()
    world.wait_ready("node")
    with exported(world, SIZE) as uri:
        world.start_site("berlin")
        world.wait_ready("berlin")
        backups = Backups(world, uri)
        backups.write_some()
        first = backups.from_primary()
        assert (first["source"], first["is_consistent"], first["base"]) == ("primary", True, None)
        assert (first["rung"], first["rung_reason"]) == ("allocated", None)
        backups.write_some()
        log = world.folder / "hooks"
        second = backups.from_site(
            "--before", f"echo freeze >> {log}", "--after", f"echo thaw >> {log}"
        )
        assert log.read_text() == "freeze\nthaw\n"
        assert len(second["hooks"]) == 2
        assert second["frozen_s"] > 0
        assert (second["source"], second["is_consistent"]) == ("site berlin", True)
        assert (second["rung"], second["base"]) == ("changed", first["point"])
        assert second["data_bytes"] <= 7 * BLOCK
        backups.write_some()
        kill_while_frozen(backups, world.folder / "mark")
        third = backups.from_primary("--layout", "clusters", "--compress")
        assert (third["rung"], third["base"]) == ("changed", second["point"])
        backups.check()
        status = json.loads(run_cli(world.settings, "status").stdout)
        (registered,) = status["backups"]
        assert (registered["point"], registered["position"]) == (third["point"], third["position"])
        different = backups.ask("backup", "diff", VOLUME, first["point"], third["point"])
        before, after = (backups.contents[one["point"]] for one in (first, third))
        assert different["changed_blocks"] == sum(
            before[at : at + BLOCK] != after[at : at + BLOCK] for at in range(0, SIZE, BLOCK)
        )
        target = world.folder / "restored"
        exact = backups.ask("restore", VOLUME, "--at", second["at"], "--to", str(target))
        assert (exact["point"], exact["is_exact"]) == (second["point"], True)
        assert target.read_bytes() == backups.contents[second["point"]]
        pruned = backups.ask("backup", "prune", VOLUME, "--keep-last", "2")
        assert [one["point"] for one in pruned["points"] if not one["is_kept"]] == [first["point"]]
        del backups.contents[first["point"]]
        backups.write_some()
        live = run_until_a_point(backups)  # it reads the primary itself, without a snapshot
        assert (live["rung"], live["base"]) == ("changed", third["point"])
        backups.write_some()
        full = backups.from_site("--full")
        assert (full["rung"], full["base"]) == ("allocated", None)
        backups.check()
        (checked,) = backups.ask("backup", "check", "--read-data")["volumes"]
        assert (checked["damages"], checked["leftovers"]) == ([], [])
        assert checked["sound"] == list(backups.contents)
        forgotten = backups.ask("backup", "forget", VOLUME, "--yes")
        assert forgotten["position"] == full["position"]
