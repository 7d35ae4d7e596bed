"""Workers of one site as real processes: one hangs, one is killed with -9, the others go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deadlines import DEADLINE_S
from running import run_cli
from suspending import suspend
from writing import make_volumes, names_by_partition

from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.processes.child_processes import ChildMessage, stop_all
from mirrorlog.producers import open_volume

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 1 << 20


def wait_for_shares(run: Run, wanted: dict[str, list[int]]) -> None:
    """Wait until each of these workers says that it works for these partitions."""
    waiting = dict(wanted)

    def all_have(message: ChildMessage) -> bool:
        if message.message_type == "share" and message.part in wanted:
            if message.fields["partitions"] == wanted[message.part]:
                waiting.pop(message.part, None)
            else:
                waiting[message.part] = wanted[message.part]
        return not waiting

    run.wait_for(all_have, DEADLINE_S)


def write_and_wait(run: Run, name: str, folder: Path) -> None:
    """Write to a volume, and wait until its secondary equals the primary."""
    with open_volume(name, run.settings) as volume:
        volume.pwrite(name.encode() * 100, 8192)
    wait_until_consistent(run.settings, name, DEADLINE_S)
    secondary = run.folder / "site-a" / f"{name}.img"
    assert secondary.read_bytes() == (folder / f"{name}.img").read_bytes()


@pytest.mark.parametrize("world", [{"partitions": 2, "node_http": "off"}], indirect=True, ids=[""])
def test_a_worker_that_is_killed_hands_over_and_one_that_hangs_stops_no_other(
    world: Run, tmp_path: Path
) -> None:
    first, second = names_by_partition(2)
    primaries = tmp_path / "primaries"
    make_volumes(world.settings, {first: SIZE, second: SIZE}, primaries)
    world.start_node()
    world.start_site("site-a", "--worker", part="worker-0")
    world.wait_ready("worker-0")
    world.start_site("site-a", "--worker", part="worker-1")
    wait_for_shares(world, {"worker-0": [0], "worker-1": [1]})
    write_and_wait(world, first, primaries)
    write_and_wait(world, second, primaries)

    suspend(world.parts["worker-1"].pid)  # as if its device hung
    write_and_wait(world, first, primaries)
    with open_volume(second, world.settings) as volume:
        volume.pwrite(b"while it hangs", 0)

    world.parts.pop("worker-1").kill()
    wait_for_shares(world, {"worker-0": [0, 1]})
    write_and_wait(world, second, primaries)

    stop_all([world.parts.pop("worker-0")])
    done = run_cli(world.settings, "site", "list")
    sites: list[dict[str, Any]] = json.loads(done.stdout)["sites"]
    assert [(site["site"], site["process"]) for site in sites] == [("site-a", "STOPPED")]
