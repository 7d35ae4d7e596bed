"""A drill beside two workers of a site whose secondary is on an NBD server, from the outside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from deadlines import DEADLINE_S, wait_until
from nbd_servers import Nbdkit, skip_without
from running import run_cli
from writing import make_volumes

from mirrorlog.adapters.addresses import open_nbd
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.producers import open_volume

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE = 1 << 20
BLOCK = 4096


@contextmanager
def drill(world: Run, uri: str, *options: str) -> Iterator[str]:
    """Serve the secondary to clients that may write; yield the URI."""
    pid_file = world.folder / "drill.pid"
    ended = run_cli(
        world.settings,
        *("site", "serve", "v", "--site", "berlin", "--dir", str(world.folder / "berlin")),
        *("--secondary", f"v={uri}", "--writable", "--detach", str(pid_file), *options),
    )
    assert ended.returncode == 0, ended.stderr
    ready = json.loads(ended.stdout.splitlines()[0])
    assert (ready["message_type"], ready["is_consistent"]) == ("ready", True)
    process = psutil.Process(int(pid_file.read_text()))
    try:
        yield str(ready["uri"])
    finally:
        process.terminate()
        psutil.wait_procs([process], timeout=DEADLINE_S)


def read(uri: str) -> bytes:
    with open_nbd(uri, writable=False) as device:
        return bytes(device.pread(offset=0, length=SIZE))


@pytest.mark.parametrize("world", [{"partitions": 2, "node_http": "off"}], indirect=True, ids=[""])
def test_a_drill_serves_an_export_whichever_worker_has_it(world: Run, tmp_path: Path) -> None:
    server = Nbdkit(tmp_path / "nbd")
    skip_without(server)
    server.image.parent.mkdir()
    FileDevice.create(server.image, SIZE).close()
    server.start()
    try:
        make_volumes(world.settings, {"v": SIZE}, tmp_path / "primaries")
        world.start_node()
        options = ("--secondary", f"v={server.uri}", "--worker")
        for part in ("worker-0", "worker-1"):
            world.start_site("berlin", *options, part=part)
            world.wait_ready(part)
        with open_volume("v", world.settings) as volume:
            volume.pwrite(os.urandom(SIZE), 0)
            volume.flush()
            wait_until_consistent(world.settings, "v", DEADLINE_S)
            before = server.image.read_bytes()

            with drill(world, server.uri) as uri:
                volume.pwrite(b"later", 0)
                volume.flush()
                wait_until_consistent(world.settings, "v", DEADLINE_S)
                assert server.image.read_bytes()[:5] == b"later"
                assert read(uri) == before

            with drill(world, server.uri, "--hold") as uri:
                held = server.image.read_bytes()
                volume.pwrite(b"still later", 0)
                volume.flush()
                with open_nbd(uri, writable=True) as client:
                    client.pwrite(BLOCK, b"a client's")
                # The worker that has the volume may die: the next one leaves it alone, too.
                for part in ("worker-0", "worker-1"):
                    world.parts[part].kill()
                    world.start_site("berlin", *options, part=part)
                    world.wait_ready(part)
                assert read(uri)[BLOCK:][:10] == b"a client's"
                assert server.image.read_bytes() == held
            wait_until(
                lambda: server.image.read_bytes()[:11] == b"still later", world.check, every_s=0.1
            )
            assert server.image.read_bytes()[BLOCK:] == before[BLOCK:]
    finally:
        server.kill()
