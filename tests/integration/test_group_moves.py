"""A database's log and data fail over together, follow together, and come back together."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from deadlines import wait_until
from running import run_cli

from mirrorlog.cli.demo.run import Run
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.producers import open_volume
from mirrorlog.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NAMES = ("data", "wal")


def shell(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a command, which must end with `code`; return the last JSON object that it prints."""
    done = run_cli(settings, *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def write(settings: Settings, text: bytes) -> None:
    """Write to the log, and when that is acknowledged, to the data."""
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open_volume(name, settings)) for name in NAMES}
        for name in reversed(NAMES):
            opened[name].pwrite(text, 4096)


def wait_for_point(run: Run, site: str, images: dict[str, Path], text: bytes) -> None:
    """Wait until both secondaries of a site hold a text, and are at one common point."""
    states = SecondaryStateFiles(run.folder / site / "states")

    def is_there() -> bool:
        saved = [states.load(name) for name in NAMES]
        points = {None if state is None else state.common_point_id for state in saved}
        if len(points) != 1 or None in points:
            return False
        return all(image.read_bytes()[4096:].startswith(text) for image in images.values())

    wait_until(is_there, run.check)


def test_a_group_fails_over_follows_and_comes_back_as_one(run: Run, tmp_path: Path) -> None:
    here = run.settings
    there = here.model_copy(update={"state_dir": tmp_path / "state-b"})
    run.start_node()
    run.wait_ready("node")
    primaries = {name: run.folder / f"{name}.primary" for name in NAMES}
    for name in NAMES:
        primary = ("--primary", str(primaries[name]), "--create-primary")
        shell(here, "volume", "create", name, "--size", "64KiB", "--group", "db", *primary)
    run.start_site("b", "--consistency", "crash")
    write(here, b"first")
    secondaries = {name: run.folder / "b" / f"{name}.img" for name in NAMES}
    wait_for_point(run, "b", secondaries, b"first")

    at_b = ("--site", "b", "--dir", str(run.folder / "b"))
    planned = shell(there, "promote", "wal", *at_b, "--group", "--dry-run")
    assert planned["is_whole"] and [row["lost"]["blocks"] for row in planned["volumes"]] == [0, 0]
    promoted = shell(there, "promote", "wal", *at_b, "--group", "--yes")
    assert [row["primary_site"] for row in promoted["volumes"]] == ["b", "b"]
    write(there, b"second")
    assert shell(there, "promote", "wal", *at_b, "--group", "--yes")["group"] == "db"

    at_a = ("--site", "a", "--dir", str(run.folder / "a"))
    rejoined = shell(here, "rejoin", "wal", *at_a, "--group", "--yes")
    assert [row["copies_all"] for row in rejoined["volumes"]] == [False, False]
    again = shell(here, "rejoin", "wal", *at_a, "--group", "--yes")
    assert (again["volumes"], again["following"]) == ([], ["data", "wal"])
    run.start_site("a", "--consistency", "crash")
    wait_for_point(run, "a", primaries, b"second")

    back = shell(
        there, "failback", "wal", *at_a, "--group", "--former-dir", str(run.folder / "b"), "--yes"
    )
    assert [row["lost"]["blocks"] for row in back["volumes"]] == [0, 0]
    write(here.model_copy(update={"state_dir": there.state_dir}), b"third")
    wait_for_point(run, "b", secondaries, b"third")
    for name in NAMES:
        assert primaries[name].read_bytes() == secondaries[name].read_bytes()
