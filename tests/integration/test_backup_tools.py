"""Other people's tools open each point of a repository: an ext4 file system that changes.

The file system is made and changed without mounting it. What each point must hold is known from
what was written into it: the bytes of the volume, and the content of each file.
"""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from backup_images import BytesSource
from deadlines import DEADLINE_S, wait_until
from file_images import SBIN, debugfs, new_image, run_tool
from kept_points import BLOCK, KeptPoints
from qemu_images import check_content, qemu_img

from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.processes.dies_with_parent import dies_with_parent

SIZE = 24 << 20
PATH = f"{os.environ.get('PATH', '')}:{SBIN}"


def is_missing(*tools: str) -> bool:
    return any(shutil.which(tool, path=PATH) is None for tool in tools)


pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        is_missing("qemu-img", "mke2fs", "debugfs", "e2fsck"),
        reason="qemu-img or e2fsprogs aren't installed",
    ),
]
COUNTS = pytest.mark.parametrize("count", [3, pytest.param(31, marks=pytest.mark.slow)])
LAYOUTS = pytest.mark.parametrize("layout", [*ImageLayout, "compressed", "mixed"])


@dataclass
class FileSystemPoints:
    """A file system in a file, the points of its volume, and the files that each point holds.

    zeroed: how many blocks of all points became zeros. contents: by point, a copy of the volume.
    trees: the content of each file, at first and by point.
    """

    folder: Path
    points: KeptPoints
    random: random.Random
    zeroed: int = 0
    contents: list[Path] = field(default_factory=list)
    trees: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def volume(self) -> Path:
        return self.folder / "volume.img"

    def __post_init__(self) -> None:
        """Make the file system."""
        new_image(self.volume, SIZE)
        run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", self.volume)
        self.trees.append({})

    def change(self) -> None:
        """Replace a file, add two, discard another one, and take a point."""
        tree = dict(self.trees[-1])
        replaced, *discarded = self.random.sample(sorted(tree), min(2, len(tree))) or [""]
        commands = [f"rm {replaced}"] if replaced else []
        for name in filter(None, (replaced, *(f"file{len(self.trees)}-{n}" for n in range(2)))):
            tree[name] = self.random.randbytes(self.random.choice([1, 5000, 90_000, 300_000]))
            (self.folder / name).write_bytes(tree[name])
            commands.append(f"write {self.folder / name} {name}")
        debugfs(self.volume, commands, writes=True)
        for name in discarded:
            del tree[name]
            self.discard(name)
        self.trees.append(tree)
        self.take_point()

    def discard(self, name: str) -> None:
        """Remove a file, and make its blocks zeros, as a discard does."""
        words = debugfs(self.volume, [f"blocks {name}"]).split()
        blocks = [int(word) for word in words if word.isdigit()]
        assert blocks
        debugfs(self.volume, [f"rm {name}"], writes=True)
        with self.volume.open("r+b") as volume:
            for block in blocks:
                volume.seek(block * BLOCK)
                volume.write(bytes(BLOCK))

    def take_point(self) -> None:
        """Add a point of the blocks that differ from the last one."""
        content = self.volume.read_bytes()
        before = self.contents[-1].read_bytes() if self.contents else bytes(SIZE)
        now, then = (np.frombuffer(octets, np.uint8) for octets in (content, before))
        rows, old_rows = now.reshape(-1, BLOCK), then.reshape(-1, BLOCK)
        differs, is_zero = (rows != old_rows).any(axis=1), ~rows.any(axis=1)
        data = BlockSet(np.flatnonzero(differs & ~is_zero).tolist())
        zeros = BlockSet(np.flatnonzero(differs & is_zero).tolist())
        self.zeroed += len(zeros)
        self.points.add(BytesSource(content), data, zeros)
        self.contents.append(self.folder / f"content{len(self.contents)}")
        self.contents[-1].write_bytes(content)

    def check_tree(self, mounted: Path, number: int) -> None:
        """Check that a mounted file system holds exactly the files of a point."""
        tree = self.trees[number + 1]
        names = {path.name for path in mounted.iterdir()} - {"lost+found"}
        assert names == tree.keys()
        for name, content in tree.items():
            assert (mounted / name).read_bytes() == content, (number, name)


@pytest.fixture
def world(count: int, layout: str, tmp_path: Path) -> FileSystemPoints:
    is_compressed = layout == "compressed"
    layouts = {"compressed": [ImageLayout.CLUSTERS], "mixed": list(ImageLayout)}
    points = KeptPoints(tmp_path / "points", SIZE, is_compressed=is_compressed)
    made = FileSystemPoints(tmp_path, points, random.Random(11))
    for _, points.layout in zip(range(count), cycle(layouts.get(layout, [layout])), strict=False):
        made.change()
    assert made.zeroed
    return made


@COUNTS
@LAYOUTS
def test_qemu_img_checks_converts_and_compares_each_point(world: FileSystemPoints) -> None:
    copy = world.folder / "copy"
    for number, content in enumerate(world.contents):
        image = world.points.image(number)
        assert "No errors were found" in qemu_img("check", image)
        qemu_img("convert", "-O", "raw", image, copy)
        assert filecmp.cmp(copy, content, shallow=False), number
        check_content(image, content)
        run_tool("e2fsck", "-f", "-n", copy)


@pytest.mark.skipif(
    is_missing("qemu-nbd", "nbdcopy", "nbdkit"), reason="qemu-nbd, nbdcopy or nbdkit is missing"
)
@COUNTS
@LAYOUTS
def test_qemu_nbd_alone_and_behind_nbdkit_serves_each_point(world: FileSystemPoints) -> None:
    copy = world.folder / "copy"
    for number, content in enumerate(world.contents):
        qemu = ["qemu-nbd", "-r", "-f", "qcow2", str(world.points.image(number))]
        nbdkit = ["nbdkit", "--exit-with-parent", "-r", "nbd", f"command={qemu[0]}"]
        nbdkit += [f"arg={argument}" for argument in qemu[1:]]
        for server in (qemu, nbdkit):
            copy.unlink(missing_ok=True)
            run_tool("nbdcopy", "--", "[", *server, "]", copy)
            assert filecmp.cmp(copy, content, shallow=False), (number, server[0])


@contextmanager
def mounted_without_a_copy(image: Path, at: Path) -> Iterator[Path]:
    """Mount the file system of a point from its image: ext4 over loop, FUSE, NBD and qemu-nbd."""
    at.mkdir()
    serving = ["[", "qemu-nbd", "-r", "-f", "qcow2", str(image), "]"]
    fuse = subprocess.Popen(dies_with_parent(["nbdfuse", "-r", str(at), *serving]))

    def check() -> None:
        assert fuse.poll() is None, "nbdfuse has ended"

    def unmount(path: Path) -> None:
        """Unmount, once nobody else looks at the loop device any more."""
        wait_until(lambda: not subprocess.run(["umount", path], check=False).returncode)

    with ExitStack() as stack:
        stack.callback(lambda: fuse.wait(DEADLINE_S))
        stack.callback(unmount, at)
        wait_until((at / "nbd").exists, check)
        device = run_tool("losetup", "--read-only", "--find", "--show", at / "nbd").strip()
        stack.callback(run_tool, "losetup", "--detach", device)
        mounted = at.with_name(f"{at.name}-mounted")
        mounted.mkdir()
        run_tool("mount", "-t", "ext4", "-o", "ro", device, mounted)
        stack.callback(unmount, mounted)
        yield mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.skipif(
    is_missing("nbdfuse", "losetup", "mount", "qemu-nbd"), reason="nbdfuse or qemu-nbd is missing"
)
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse")
@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="there are no loop devices")
@COUNTS
@LAYOUTS
def test_the_file_system_of_each_point_mounts_and_holds_its_files(world: FileSystemPoints) -> None:
    for number in range(len(world.contents)):
        at = world.folder / f"fuse{number}"
        with mounted_without_a_copy(world.points.image(number), at) as mounted:
            world.check_tree(mounted, number)
