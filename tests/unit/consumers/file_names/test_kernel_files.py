"""The map of file systems that the kernel itself wrote, against its own answer (FIEMAP).

The file system is mounted in a mount namespace that ends with its process: nothing stays mounted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from file_images import MIB, map_of, need, new_image, run_tool

from mirrorlog.consumers.file_names.owners import OwnerKind

# Writes files of all kinds, asks the kernel where they are, and copies the image while it is
# mounted. Arguments: image, folder to mount at, file system, copy.
WRITER = r"""
import json, os, random, re, subprocess, sys
image, folder, kind, copy = sys.argv[1:]
done = subprocess.run(["mount", "-t", kind, "-o", "loop", image, folder], capture_output=True)
if done.returncode:
    sys.exit(f"SKIP no {kind} can be mounted here: {done.stderr.decode()[-200:]}")
chance, paths = random.Random(7), []
for number in range(150):
    place = f"{folder}/folder{number % 7}"
    os.makedirs(place, exist_ok=True)
    paths.append(f"{place}/file{number}")
    with open(paths[-1], "wb") as file:
        file.write(b"x" * chance.choice([50, 5000, 40_000, 300_000]))
os.sync()
for number in range(0, 150, 3):
    os.unlink(paths[number])
kept = [path for path in paths if os.path.exists(path)]
for number in range(60):  # in the holes, a piece at a time
    with open(f"{folder}/piecemeal{number % 4}", "ab") as file:
        file.write(b"y" * chance.randrange(4096, 60_000))
        os.fsync(file.fileno())
with open(f"{folder}/reserved", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, 1 << 20)
    file.write(b"z" * 10_000)
with open(f"{folder}/sparse", "wb") as file:
    for number in range(50):
        file.seek(number * 100_000)
        file.write(b"s")
os.rename(kept[0], f"{folder}/renamed")
os.link(f"{folder}/renamed", f"{folder}/linked")
still_open = open(f"{folder}/deleted", "wb")
still_open.write(b"d" * 20_000)
still_open.flush()
os.sync()
row = re.compile(r"^ *\d+: +(\d+)\.\. +\d+: +(\d+)\.\. +\d+: +(\d+):(?!.*inline)", re.M)
extents = {}
for place, _, names in os.walk(folder):
    for name in names:
        path = f"{place}/{name}"
        size = os.path.getsize(path)
        command = ["filefrag", "-b512", "-v", path]
        text = subprocess.run(command, capture_output=True, text=True).stdout
        rows = [[int(cell) * 512 for cell in match] for match in row.findall(text)]
        extents[path[len(folder):]] = [  # without what is reserved after the end of the file
            (start, min(length, size - at)) for at, start, length in rows if at < size
        ]
os.unlink(f"{folder}/deleted")
os.sync()
subprocess.run(["cp", "--sparse=always", image, copy], check=True)
print(json.dumps(extents))
still_open.close()
os.sync()
subprocess.run(["umount", folder], check=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("kind", "options"),
    [("ext4", ["mke2fs", "-q", "-F", "-t", "ext4"]), ("xfs", ["mkfs.xfs", "-q"])],
)
def test_the_kernel_says_the_same_of_every_file(
    kind: str, options: list[str], tmp_path: Path
) -> None:
    need(options[0], "filefrag", "unshare", "mount", *(["xfs_db"] if kind == "xfs" else []))
    image = new_image(tmp_path / "image", 320 * MIB)
    run_tool(*options, image)
    folder, copy = tmp_path / "mounted", tmp_path / "copy"
    folder.mkdir()
    unshare = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", WRITER]
    done = subprocess.run(
        [*unshare, image, folder, kind, copy], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and ("SKIP" in done.stderr or "unshare" in done.stderr):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    extents = json.loads(done.stdout)
    deleted = extents.pop("/deleted")
    dirty, clean = map_of(copy), map_of(image)
    assert len(extents) > 100
    assert any(len(its) > 1 for its in extents.values())
    for path, its in extents.items():
        starts, lengths = (np.array(column, np.int64) for column in zip(*its, strict=True))
        pieces = clean.pieces(starts, lengths)
        for number in pieces.owners.tolist():
            (owner,) = clean.owners(number)
            assert owner.kind is OwnerKind.FILE, (path, owner)
            assert path.encode() in clean.paths(owner)
    assert (clean.areas[0].is_dirty, dirty.areas[0].is_dirty) == (False, True)
    pieces = clean.pieces(*(np.array(column, np.int64) for column in zip(*deleted, strict=True)))
    assert {clean.owners(number)[0].kind for number in pieces.owners.tolist()} == {OwnerKind.FREE}
