"""`mirrorlog verify` from the outside: a node, a site, and writes while it runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Event, Thread

import pytest
from deadlines import DEADLINE_S
from running import run_cli
from writing import make_volumes

from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.errors import ExitCode
from mirrorlog.producers import open_volume

pytestmark = pytest.mark.integration

SIZE = 4 << 20
BLOCK = 4096


def verify(world: Run, *options: str) -> tuple[int, dict[str, object]]:
    """Return the exit code, and the report, of a verification."""
    ended = run_cli(world.settings, "verify", "v", "--site", "site-a", *options)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    results = [line for line in lines if line["message_type"] == "result"]
    assert len(results) == 1, ended.stderr
    return ended.returncode, results[0]


@pytest.mark.parametrize("world", [{"partitions": 1, "node_http": "off"}], indirect=True, ids=[""])
def test_writes_are_no_difference_and_a_flipped_byte_is_found_and_repaired(
    world: Run, tmp_path: Path
) -> None:
    make_volumes(world.settings, {"v": SIZE}, tmp_path / "primaries")
    world.start_node()
    world.start_site("site-a")
    world.wait_ready("site-a")
    stop = Event()
    with open_volume("v", world.settings) as volume:
        volume.pwrite(os.urandom(SIZE), 0)
        volume.flush()
        wait_until_consistent(world.settings, "v", DEADLINE_S)

        def write() -> None:
            block = 0
            while not stop.wait(0.01):
                block = (block + 7) % (SIZE // BLOCK)
                volume.pwrite(os.urandom(BLOCK), block * BLOCK)

        writer = Thread(target=write)
        writer.start()
        try:
            code, report = verify(world)
            assert (code, report["result"]) == (ExitCode.OK, "equal"), report
            stop.set()
            writer.join()
            volume.flush()
            wait_until_consistent(world.settings, "v", DEADLINE_S)
            with (world.folder / "site-a" / "v.img").open("r+b") as file:
                file.seek(5 * BLOCK + 3)
                byte = file.read(1)
                file.seek(5 * BLOCK + 3)
                file.write(bytes([byte[0] ^ 1]))
            code, report = verify(world, "--repair", "--algorithm", "blake2b-128")
            assert (code, report["result"]) == (
                ExitCode.DIFFERENCE_FOUND,
                "1 block differs, 1 repaired",
            )
            assert report["different"] == [{"offset": 5 * BLOCK, "length": BLOCK}]
        finally:
            stop.set()
            writer.join()
    assert (world.folder / "site-a" / "v.img").read_bytes() == (
        tmp_path / "primaries" / "v.img"
    ).read_bytes()
