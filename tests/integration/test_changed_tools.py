"""The commands of docs/changed.md, run with the real tools on a copy that lacks some changes.

The one that the page recommends brings the copy up to date. The ones that it warns of destroy it.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from notation import volume

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import render
from mirrorlog.domain.bitmaps import BlockSet

TOOLS = ("nbdkit", "nbdcopy", "qemu-img")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} isn't installed"),
]

PAGE = (Path(__file__).parents[2] / "docs" / "changed.md").read_text()
RIGHT = next(block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) if "nbdkit" in block)
WRONG = re.findall(r"^\| `([^`]*)` \| (\d+) \|", PAGE, re.M)
BLOCK, BLOCKS = 256 << 10, 64
CHANGED = (3, 4, 5, 20, 21, 40, 41, 63)
ZERO_NOW = (4, 21)


def wrong_blocks(folder: Path, command: str) -> list[int]:
    """Run the command on an old copy, and return the blocks that differ from the primary then.

    The folder has `primary.raw`, `copy.raw` and the list `changed.txt`.
    """
    numbers = random.Random(1)
    old = [numbers.randbytes(BLOCK) for _ in range(BLOCKS)]
    new = list(old)
    for block in CHANGED:
        new[block] = bytes(BLOCK) if block in ZERO_NOW else numbers.randbytes(BLOCK)
    described = volume(size_bytes=BLOCK * BLOCKS, block_size=BLOCK)
    answer = ChangedBlocks(described, 1, 2, BlockSet(CHANGED), BlockSet(), ("h",), 1, 2, 8)
    (folder / "changed.txt").write_text("".join(render(answer, "extentlist")))
    (folder / "primary.raw").write_bytes(b"".join(new))
    copy = folder / "copy.raw"
    copy.write_bytes(b"".join(old))
    subprocess.run(
        ["sh", "-ec", command], cwd=folder, check=True, timeout=DEADLINE_S, capture_output=True
    )
    content = copy.read_bytes()
    assert len(content) == BLOCK * BLOCKS
    return [n for n in range(BLOCKS) if content[n * BLOCK : (n + 1) * BLOCK] != new[n]]


def are_the_measured_tools() -> bool:
    """Return whether the installed tools are of the versions that the page names."""
    outputs = (
        subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
        for tool in TOOLS
    )
    versions = [re.search(r"\d+\.\d+\.\d+", output) for output in outputs]
    return all(version is not None and f" {version[0]}" in PAGE for version in versions)


def test_the_command_of_the_page_brings_a_copy_up_to_date(tmp_path: Path) -> None:
    assert sorted(wrong_blocks(tmp_path, ":")) == sorted(CHANGED)
    assert wrong_blocks(tmp_path, RIGHT) == []


@pytest.mark.parametrize(("command", "count"), WRONG)
def test_each_command_that_the_page_warns_of_destroys_the_copy(
    tmp_path: Path, command: str, count: str
) -> None:
    served = "nbdkit -U - -r file primary.raw --filter=extentlist extentlist=changed.txt --run"
    run = command.replace("$source", '"$uri"')
    wrong = wrong_blocks(tmp_path, f"{served} '{run}'")
    assert len(wrong) == int(count) if are_the_measured_tools() else wrong
    assert wrong == list(ZERO_NOW) or not set(wrong) & set(CHANGED)


def test_the_page_warns_of_every_tool() -> None:
    assert {command.split()[0] for command, _ in WRONG} == {"nbdcopy", "qemu-img"}
    assert len(WRONG) == 8
