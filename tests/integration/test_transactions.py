"""Transactions of strangers in the commands topic, left open and aborted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from confluent_kafka import Producer
from deadlines import DEADLINE_S
from running import run_cli
from writing import make_volumes

from mirrorlog.cli.demo.run import Run
from mirrorlog.errors import BadUse
from mirrorlog.producers import open_volume

pytestmark = pytest.mark.integration

BLOCK = 4096


def changed(run: Run) -> str:
    arguments = ("changed", "v", "--since", "origin", "--format", "ranges")
    done = run_cli(run.settings, *arguments, as_json=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("world", [{"partitions": 1, "node_http": "off"}], indirect=True, ids=[""])
def test_a_transaction_that_a_stranger_leaves_open_or_aborts_hides_no_write_and_no_host(
    world: Run, tmp_path: Path
) -> None:
    make_volumes(world.settings, {"v": 1 << 20}, tmp_path)
    for size_bytes in (0, 1 << 20):  # a primary without data has no past
        os.truncate(tmp_path / "v.img", size_bytes)
    stranger = Producer(
        {
            "bootstrap.servers": world.settings.bootstrap_servers,
            "transactional.id": world.settings.topic_prefix,
        }
    )
    stranger.init_transactions(DEADLINE_S)
    stranger.begin_transaction()
    stranger.produce(world.settings.topics.commands, b"no command", partition=0)
    assert stranger.flush(DEADLINE_S) == 0
    world.start_node()
    copy = tmp_path / "another machine's path to the same storage.img"
    shutil.copy(tmp_path / "v.img", copy)
    with open_volume("v", world.settings) as volume:
        volume.pwrite(b"a" * BLOCK, 3 * BLOCK)
        with pytest.raises(BadUse, match="another host may be writing"):
            open_volume("v", world.settings, host="other", primary=copy.as_uri())
    assert changed(world).split() == ["12288-16383"]
    # The last position is that of the transaction's marker now, where no command comes.
    stranger.abort_transaction(DEADLINE_S)
    assert changed(world).split() == ["12288-16383"]
