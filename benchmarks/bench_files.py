"""Measures how files are named: an index of the whole device, or a question for each block.

    python benchmarks/bench_files.py [--files 20000] [--blocks 10000] [--repeat 5]

An ext4 file system is made in a file, without mounting it, with many small files and some large
ones. Three ways name the files of the same blocks, drawn at random from the whole file system:

- index: one walk in a process of its own, as `mirrorlog changed --files` does it, and then a
  bisection for each block; the time of the process is in it
- debugfs_batches: debugfs with `icheck` for many blocks in a line, then `ncheck` for their inodes
- debugfs_single: a process for each block; of this way only a sample is measured, because it takes
  minutes

The answers of the first two are compared block by block. The last line of stdout is one JSON
object. Exit code 1 if an answer is wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

import numpy as np
from results import machine, report_result

from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.owners import OwnerKind
from mirrorlog.consumers.file_names.scan_process import index_of

_BLOCK: Final = 4096
_IN_A_LINE: Final = 800
"""Blocks in a line of debugfs, which cuts lines at 8,191 bytes, through a number."""
_SAMPLE: Final = 40
_FILES_IN_A_FOLDER: Final = 200
Answers: TypeAlias = dict[int, frozenset[bytes]]
"""By block, the paths of the file that has it; none where no file has it."""


def make_image(folder: Path, files: int) -> Path:
    """Make the file system, two thirds full."""
    tree, chance = folder / "tree", random.Random(1)
    for number in range(files):
        place = tree / f"folder {number // _FILES_IN_A_FOLDER}"
        if number % _FILES_IN_A_FOLDER == 0:
            place.mkdir(parents=True)
        length = 4 << 20 if number % 500 == 0 else chance.choice([100, 4000, 9000, 30_000])
        (place / f"file {number}").write_bytes(b"x" * length)
    used = sum(path.stat().st_blocks * 512 for path in tree.rglob("*") if path.is_file())
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(used * 3 // 2 // _BLOCK * _BLOCK + (64 << 20))
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-d", tree, image], check=True
    )
    shutil.rmtree(tree)
    return image


def by_index(image: Path, blocks: Sequence[int]) -> Answers:
    """Name the files with one walk."""
    index = index_of(str(image))
    return looked_up(index, blocks)


def looked_up(index: FileIndex, blocks: Sequence[int]) -> Answers:
    """Return the answers of an index."""
    offsets = np.array(blocks, np.int64) * _BLOCK
    pieces = index.pieces(offsets, np.full(len(offsets), _BLOCK, np.int64))
    names = {number: _paths(index, number) for number in set(pieces.owners.tolist())}
    owners = pieces.owners.tolist()
    return {
        blocks[row]: names[owner] for row, owner in zip(pieces.rows.tolist(), owners, strict=True)
    }


def _paths(index: FileIndex, number: int) -> frozenset[bytes]:
    (owner,) = index.owners(number)
    named = owner.kind in (OwnerKind.FILE, OwnerKind.DIRECTORY, OwnerKind.FILE_MAP)
    return frozenset(index.paths(owner)) if named else frozenset()


def by_debugfs(image: Path, blocks: Sequence[int]) -> Answers:
    """Name the files with debugfs, in long lines."""
    lines = _lines("icheck", blocks)
    inodes = {
        int(match[1]): int(match[2])
        for match in re.finditer(r"^(\d+)\t(\d+)$", _debugfs(image, lines), re.MULTILINE)
    }
    paths: dict[int, set[bytes]] = {}
    answer = _debugfs(image, _lines("ncheck", sorted(set(inodes.values()))))
    for match in re.finditer(r"^(\d+)\t(/.*)$", answer, re.MULTILINE):
        # ncheck writes // before the name of a folder in the root folder.
        paths.setdefault(int(match[1]), set()).add(match[2].replace("//", "/").encode())
    return {block: frozenset(paths.get(inodes.get(block, -1), ())) for block in blocks}


def one_by_one(image: Path, blocks: Sequence[int]) -> Answers:
    """Name the files with debugfs, in two processes for each block."""
    answers: Answers = {}
    for block in blocks:
        answers |= by_debugfs(image, [block])
    return answers


def _lines(command: str, numbers: Sequence[int]) -> str:
    return "".join(
        f"{command} {' '.join(map(str, numbers[first : first + _IN_A_LINE]))}\n"
        for first in range(0, len(numbers), _IN_A_LINE)
    )


def _debugfs(image: Path, commands: str) -> str:
    done = subprocess.run(
        ["debugfs", "-f", "/dev/stdin", image],
        input=commands,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def timed(call: Callable[[], Answers], repeat: int) -> tuple[float, Answers]:
    """Return the median of the seconds, and the answers."""
    seconds, answers = [], Answers()
    for _ in range(repeat):
        began_s = time.monotonic()
        answers = call()
        seconds.append(time.monotonic() - began_s)
    return median(seconds), answers


def main() -> int:
    """Return exit code 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description="Measure how files are named.")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mirrorlog-bench-") as folder:
        image = make_image(Path(folder), arguments.files)
        size_bytes = image.stat().st_size
        last = size_bytes // _BLOCK
        blocks = sorted(random.Random(2).sample(range(last), min(arguments.blocks, last)))
        by_walk_s, mine = timed(lambda: by_index(image, blocks), arguments.repeat)
        index = index_of(str(image))
        lookup_s, _ = timed(lambda: looked_up(index, blocks), arguments.repeat)
        in_batches_s, theirs = timed(lambda: by_debugfs(image, blocks), arguments.repeat)
        sample = random.Random(3).sample(blocks, min(_SAMPLE, len(blocks)))
        sample_s, _ = timed(lambda: one_by_one(image, sample), arguments.repeat)
    single_s = sample_s / len(sample)
    wrong = [block for block in blocks if mine[block] != theirs[block]]
    cases = {
        "index": {"median": round(by_walk_s, 3), "unit": "s"},
        "index_lookup": {"median": round(lookup_s, 4), "unit": "s"},
        "debugfs_batches": {"median": round(in_batches_s, 3), "unit": "s"},
        "debugfs_single_block": {"median": round(single_s, 4), "unit": "s"},
    }
    ratios = {
        "debugfs_batches_to_index": round(in_batches_s / by_walk_s, 2),
        "blocks_for_which_single_questions_take_as_long_as_the_index": round(by_walk_s / single_s),
    }
    named = sum(1 for block in blocks if theirs[block])
    failures = [f"block {block}: {mine[block]} and {theirs[block]}" for block in wrong[:5]]
    if not named:
        failures.append("no block has a name")
    result = {
        "bench": "files",
        "files": arguments.files,
        "blocks": len(blocks),
        "blocks_with_names": named,
        "blocks_wrong": len(wrong),
        "image_bytes": size_bytes,
        "cases": cases,
        "ratios": ratios,
        "failures": failures,
    }
    return report_result({**result, "short": True, "machine": machine()}, save=False)


if __name__ == "__main__":
    sys.exit(main())
