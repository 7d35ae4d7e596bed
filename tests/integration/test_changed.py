"""`mirrorlog changed` with real processes, against counts and folds that share nothing with it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from file_images import make_ext, make_tree
from notation import volume as small_volume
from running import Outcome, run_cli, wait_for_result

from mirrorlog.adapters.kafka import KafkaReader
from mirrorlog.changed import ask
from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import render
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.producers.traces import count_dirty_blocks, demo_trace_path, open_trace

pytestmark = pytest.mark.integration

TRACE = demo_trace_path()
BLOCK = 4096


def changed(run: Run, *arguments: str, code: int = 0) -> str:
    done = run_cli(run.settings, "changed", "demo", *arguments, as_json=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def dirty_blocks(run: Run, *arguments: str) -> set[int]:
    """Return the dirty blocks of a json listing, which must be whole, sorted and without a gap."""
    reached, blocks = 0, set[int]()
    form = ("--json",) if "--json" in arguments else ("--format", "json")
    asked = json.loads(changed(run, *form, *arguments))
    for entry in asked["extents"] if "--json" in arguments else asked:
        assert entry["start"] == reached
        reached += entry["length"]
        if entry["dirty"]:
            blocks.update(range(entry["start"] // BLOCK, -(-reached // BLOCK)))
    assert reached == 1 << 30
    return blocks


def blocks_by_position(run: Run, volume: Volume, last: int) -> dict[int, set[int]]:
    """Return the volume's commands, read and folded without bitmaps."""
    reader = KafkaReader(run.settings.kafka_client())
    reader.assign(run.settings.topics.commands, {volume.partition: None})
    by_position: dict[int, set[int]] = {}
    while reader.reached(run.settings.topics.commands, volume.partition) <= last:
        for message in reader.poll(0.5):
            command = decode(message.value or b"", TrackingCommand)
            if command.volume == volume.volume:
                pairs = zip(
                    command.extents.offsets.tolist(), command.extents.lengths.tolist(), strict=True
                )
                by_position[message.position] = {
                    block
                    for offset, length in pairs
                    if length
                    for block in range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
                }
    reader.close()
    return by_position


def test_changed_names_the_blocks_that_the_recording_wrote(run: Run, tmp_path: Path) -> None:
    run.start_node()
    run.wait_ready("node")
    run.start_host(TRACE, "auto")
    last = wait_for_result(run)["last_positions"]["demo"]
    volume = Outcome(run).volumes["demo"]
    commands = blocks_by_position(run, volume, last)

    everything = dirty_blocks(run)
    assert len(everything) == count_dirty_blocks(open_trace(TRACE), BLOCK)["demo"]
    assert everything == set[int]().union(*commands.values())

    # Most positions lie inside a record: both edges have to be replayed.
    positions = sorted(commands)
    low, high = positions[len(positions) // 3], positions[2 * len(positions) // 3]
    after = set[int]().union(*(blocks for position, blocks in commands.items() if position > low))
    assert dirty_blocks(run, "--since", f"@{low}") == after
    between = set[int]().union(
        *(blocks for position, blocks in commands.items() if low < position <= high)
    )
    assert dirty_blocks(run, "--since", str(low), "--until", str(high)) == between
    assert dirty_blocks(run, "--since", "now") == set()
    answer = ask.changed("demo", since=low, until=f"@{high}", settings=run.settings)
    assert (answer.since, answer.until) == (low, high)
    assert {
        block
        for extent in answer
        for block in range(extent.start // BLOCK, (extent.start + extent.length) // BLOCK)
    } == between

    asked = json.loads(changed(run, "--since", "2h ago", "--json"))
    assert asked["volume_began_at"] > asked["since"]["at"], "the volume is younger"
    assert asked["since"] == {"asked": "2h ago", "at": asked["since"]["at"], "position": -1}
    assert "no barrier 'b'" in changed(run, "--since", "barrier:b", code=2)
    assert "isn't complete" in changed(run, "--until", f"@{last + 10_000}", "--wait", "1s", code=1)
    table = changed(run)
    assert f"demo: {len(everything)} of {volume.blocks} blocks changed" in table
    check_files(run, everything, tmp_path)
    # Entries may differ: what is known to be zero may change with a roll-up in between.
    assert dirty_blocks(run, "--json", "--since", "yesterday") == everything


def check_files(run: Run, blocks: set[int], folder: Path) -> None:
    """Name the files of an image that has nothing to do with the recording but its size."""
    if importlib.util.find_spec("pytsk3") is None or shutil.which("mke2fs") is None:
        return
    make_tree(folder / "tree", seed=1, files=2)
    image = make_ext(folder / "ext4", folder / "tree", "-t", "ext4", size_bytes=1 << 30)
    asked = json.loads(changed(run, "--files", "--primary", str(image), "--json"))
    assert sum(row["bytes"] for row in asked["files"]) == len(blocks) * BLOCK
    assert {row["label"] for row in asked["files"]} > {"superblock", "free", "journal"}
    assert asked["mapping"]["file_systems"][0]["type"] == "ext4"
    assert "Add --files" in changed(run, "--primary", str(image), code=2)
    assert "no secondary at site nowhere" in changed(run, "--files", "--site", "nowhere", code=2)


@pytest.mark.skipif(
    not (shutil.which("nbdkit") and shutil.which("nbdinfo")),
    reason="nbdkit or nbdinfo isn't installed",
)
def test_nbdkit_takes_the_extent_list_and_nbdinfo_writes_lists_like_ours(tmp_path: Path) -> None:
    size = 5 * BLOCK + 100
    blocks = BlockSet([0, 2, 5])
    answer = ChangedBlocks(small_volume("v", size), -1, 0, blocks, BlockSet(), ("h",), 1, 2, 1)
    (tmp_path / "list").write_text("".join(render(answer, "extentlist")))
    command = [
        "nbdkit",
        "-r",
        "-U",
        "-",
        "--filter=extentlist",
        "null",
        str(size),
        f"extentlist={tmp_path / 'list'}",
    ]
    command += ["--run", 'nbdinfo --map --json "$uri"']
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    theirs, ours = json.loads(done.stdout), json.loads("".join(render(answer, "nbdinfo")))
    # Type 0 is data there, and clean in a dirty bitmap; no extent is a hole.
    assert [(e["offset"], e["length"], e["type"] == 0) for e in theirs] == [
        (e["offset"], e["length"], e["type"] == 1) for e in ours
    ]
    assert [{name: type(value) for name, value in e.items()} for e in theirs] == [
        {name: type(value) for name, value in e.items()} for e in ours
    ]
