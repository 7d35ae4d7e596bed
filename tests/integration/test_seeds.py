"""A seed is compared with its primary by digests of `mirrorlog host digest`, over Kafka."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest
from deadlines import DEADLINE_S
from writing import make_volumes

from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.consumers import run_site
from mirrorlog.consumers.resync.state_changes import SecondaryChange
from mirrorlog.consumers.verify.wiring import open_digest_server, primary_digests

pytestmark = pytest.mark.integration

SIZE = 8 << 20
BLOCK = 4096


@pytest.mark.parametrize("world", [{"partitions": 1, "node_http": "off"}], indirect=True, ids=[""])
def test_of_a_seed_only_what_differs_crosses_the_line(world: Run, tmp_path: Path) -> None:
    settings = world.settings.model_copy(
        update={"site_seeds": ("v",), "site_primary_reader": "host"}
    )
    make_volumes(settings, {"v": SIZE}, tmp_path / "primaries")
    primary, seed = tmp_path / "primaries" / "v.img", tmp_path / "site" / "v.img"
    seed.parent.mkdir()
    content = bytearray(primary.read_bytes())
    content[5 * BLOCK + 3] ^= 1
    seed.write_bytes(content)
    world.start_node()
    stop, changes = Event(), list[SecondaryChange]()

    def follow() -> None:
        run_site("site-a", seed.parent, settings, stopped=stop.is_set, on_change=changes.append)

    def serve() -> None:
        while not stop.is_set():
            server.serve(0.1)

    with ExitStack() as stack:
        # It is open before the site asks: a question that nobody hears costs a minute.
        server = stack.enter_context(open_digest_server(primary_digests(["v"], settings), settings))
        for target in (serve, follow):
            thread = Thread(target=target)
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
        wait_until_consistent(settings, "v", DEADLINE_S)
    assert seed.read_bytes() == primary.read_bytes()
    (copied,) = [change.copied for change in changes if change.copied is not None]
    assert (copied.compared_bytes, copied.written_bytes) == (SIZE, BLOCK)
    assert copied.read_bytes == 256 << 10
