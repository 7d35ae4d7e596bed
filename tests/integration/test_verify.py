"""`mirrorlog verify` and `site serve` from the outside: a node, a site, and writes meanwhile.

It takes half a minute, so `make test-slow` runs it. In the suite, test_mirrormaker.py verifies a
site from the outside, and the simulation and the unit tests have everything else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from deadlines import DEADLINE_S
from running import run_cli
from writing import make_volumes

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.nbd_client.libnbd import load_libnbd
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.errors import BadUse, ExitCode
from mirrorlog.producers import open_volume

pytestmark = [pytest.mark.integration, pytest.mark.slow]

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
        primary = (tmp_path / "primaries" / "v.img").read_bytes()
        assert (world.folder / "site-a" / "v.img").read_bytes() == primary
        if shutil.which("nbdkit") is None or not has_libnbd():
            pytest.skip("the drill needs nbdkit and libnbd: apt install nbdkit libnbd0")
        with drill(world) as uri:
            volume.pwrite(b"later", 0)
            volume.flush()
            wait_until_consistent(world.settings, "v", DEADLINE_S)
            with open_device(uri, writable=True) as device:
                assert bytes(device.pread(offset=0, length=SIZE)) == primary
                device.pwrite(BLOCK, b"a client's")
            with open_device(uri, writable=False) as device:
                assert bytes(device.pread(offset=BLOCK, length=10)) == b"a client's"
    copied = (world.folder / "site-a" / "v.img").read_bytes()
    assert copied == b"later" + primary[5:], "the site went on, and what clients wrote is gone"
    assert list((world.folder / "site-a" / "drills").iterdir()) == []


@contextmanager
def drill(world: Run) -> Iterator[str]:
    """Serve the secondary to clients that may write; yield the URI."""
    folder, pid_file = world.folder / "site-a", world.folder / "drill.pid"
    options = ["--site", "site-a", "--dir", str(folder), "--writable", "--detach", str(pid_file)]
    ended = run_cli(world.settings, "site", "serve", "v", *options)
    assert ended.returncode == 0, ended.stderr
    ready = json.loads(ended.stdout.splitlines()[0])
    assert ready["message_type"] == "ready"
    assert (ready["is_consistent"], ready["is_held"]) == (True, False)
    process = psutil.Process(int(pid_file.read_text()))
    yield str(ready["uri"])
    process.terminate()
    psutil.wait_procs([process], timeout=DEADLINE_S)


def has_libnbd() -> bool:
    try:
        load_libnbd()
    except BadUse:
        return False
    return True
