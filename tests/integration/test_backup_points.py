"""`backup serve`, `backup mount` and `restore` on a repository, without Kafka."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from backup_images import BytesSource
from backup_positions import at
from deadlines import DEADLINE_S
from file_images import MIB, make_ext, make_tree, need
from kept_points import BLOCK, add_point
from nbd_servers import QemuNbd, content_at
from running import run_cli
from s3_server import options, s3_server

from mirrorlog.adapters.addresses import open_device
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.repository.prune import prune_volume
from mirrorlog.consumers.backup.repository.qcow2_files import backing_name
from mirrorlog.consumers.backup.repository.repository_writer import open_writer
from mirrorlog.consumers.backup.serving.mounting import missing_for_mount
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.settings import Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd isn't installed"),
]
HOUR_US = 3_600_000_000


@dataclass
class Backups:
    """A repository with points of the volume v. contents: of each, by its name."""

    settings: Settings
    folder: Path
    address: str
    contents: dict[str, bytes] = field(default_factory=dict)

    def add(self, content: bytes, at_us: int) -> str:
        """Add a point that holds what differs from the last one."""
        base, last = next(reversed(self.contents.items()), (None, b""))
        blocks = BlockSet(
            block
            for block in range(-(-len(content) // BLOCK))
            if content[block * BLOCK : (block + 1) * BLOCK]
            != last[block * BLOCK : (block + 1) * BLOCK]
        )
        plan = ImagePlan(
            size_bytes=len(content),
            block_size=BLOCK,
            data=blocks,
            zeros=BlockSet(),
            backing=backing_name(base),
            layout=ImageLayout.SUBCLUSTERS,
            image_id=uuid4(),
        )
        with (
            open_repository(self.settings, self.address, creates=True) as repository,
            open_writer(repository, "test") as writer,
        ):
            position = at(len(self.contents))
            source = BytesSource(content)
            point = add_point(
                writer, plan, source, position=position, at_us=at_us, written_at_us=at_us
            )
        self.contents[point] = content
        return point

    def prune(self, *points: str) -> None:
        with (
            open_repository(self.settings, self.address) as repository,
            open_writer(repository, "prune") as writer,
        ):
            prune_volume(writer, "v", set(points))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the repository."""
        return run_cli(self.settings, *command, "--repo", self.address)

    def start(self, *command: str) -> tuple[psutil.Process, dict[str, Any]]:
        """Run a command in the background. Return its process, and what it says when ready."""
        pid_file = self.folder / "pid"
        ended = self.run(*command, "--detach", str(pid_file))
        assert ended.returncode == 0, ended.stderr
        ready: dict[str, Any] = json.loads(ended.stdout.splitlines()[0])
        return psutil.Process(int(pid_file.read_text())), ready

    @contextmanager
    def running(self, *command: str) -> Iterator[dict[str, Any]]:
        """Run a command in the background; yield what it says when it is ready, then stop it."""
        process, ready = self.start(*command)
        try:
            yield ready
        finally:
            children = process.children(recursive=True)
            process.terminate()
            _, alive = psutil.wait_procs([process, *children], timeout=DEADLINE_S)
            assert alive == []

    def left(self) -> list[str]:
        """Return the files, sockets and folders that exports and copies have left."""
        folders = [
            self.settings.state_dir / name for name in ("exports", "export-work", "backup-work")
        ]
        return [path.name for folder in folders if folder.exists() for path in folder.iterdir()]


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    return Backups(Settings(state_dir=tmp_path / "state"), tmp_path, str(tmp_path / "repository"))


def test_a_point_is_served_while_a_prune_rewrites_its_images(backups: Backups) -> None:
    content = bytearray(os.urandom(MIB))
    points = [backups.add(bytes(content), HOUR_US)]
    for number in range(1, 4):
        content[number * 50_000 : number * 50_000 + 5000] = os.urandom(5000)
        points.append(backups.add(bytes(content), (number + 1) * HOUR_US))
    at = "1970-01-01T03:30:00Z"
    with backups.running("backup", "serve", "v", "--at", at, "--writable") as ready:
        assert (ready["point"], ready["is_writable"]) == (points[2], True)
        backups.prune(points[0], points[1], points[2])
        with open_device(ready["uri"], writable=True) as device:
            device.pwrite(100, b"thrown away")
        wanted = bytearray(backups.contents[points[2]])
        wanted[100:111] = b"thrown away"
        assert content_at(ready["uri"]) == wanted
    assert backups.left() == []
    with backups.running("backup", "serve", "v") as ready:
        assert ready["point"] == points[3]
        assert content_at(ready["uri"]) == backups.contents[points[3]]
    refused = backups.run("backup", "serve", "v", "--at", points[1])
    assert refused.returncode == 2
    assert "backup list" in refused.stderr


@pytest.mark.slow
def test_a_point_in_a_bucket_is_served_from_copies_that_go_at_the_end(tmp_path: Path) -> None:
    with s3_server(tmp_path) as port:
        settings = Settings(state_dir=tmp_path / "state", archive_s3=options(port))
        backups = Backups(settings, tmp_path, "s3://bucket/backups")
        content = bytearray(os.urandom(300_001))
        first = backups.add(bytes(content), HOUR_US)
        content[5000:6000] = bytes(1000)
        backups.add(bytes(content), 2 * HOUR_US)
        with backups.running("backup", "serve", "v") as ready:
            backups.prune(first)
            assert content_at(ready["uri"]) == content
            assert ready["repository"] == "s3://bucket/backups"
        assert backups.left() == []


def test_what_a_killed_command_leaves_the_next_one_removes(backups: Backups) -> None:
    backups.add(os.urandom(100_000), HOUR_US)
    process, _ = backups.start("backup", "serve", "v", "--writable")
    children = process.children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs([process, *children], timeout=DEADLINE_S)
    assert (len(children) > 0, alive) == (True, [])
    with backups.running("backup", "serve", "v"):
        assert len(list((backups.settings.state_dir / "export-work").iterdir())) == 1
    assert backups.left() == []


def test_a_volume_is_restored_to_files_and_exports_and_never_from_damage(
    backups: Backups, tmp_path: Path
) -> None:
    old = os.urandom(MIB) + bytes(MIB) + b"the last bytes"
    new = bytes(MIB) + os.urandom(MIB)
    point = backups.add(old, HOUR_US)
    backups.add(new, 3 * HOUR_US)

    def restore(target: str, *more: str) -> subprocess.CompletedProcess[str]:
        return backups.run("restore", "v", "--to", target, *more)

    target = tmp_path / "v.img"
    done = restore(str(target), "--at", point)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == old
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["point"], result["copied_bytes"]) == (point, len(old))
    assert restore(str(target)).returncode == 2
    assert target.read_bytes() == old
    assert restore(str(target), "--overwrite").returncode == 0
    assert target.read_bytes() == new + b"the last bytes"  # they lie behind the volume's end
    (tmp_path / "served").mkdir()
    server = QemuNbd(tmp_path / "served")
    server.image.write_bytes(os.urandom(3 * MIB))
    server.start()
    try:
        exported = restore(server.uri, "--at", point, "--overwrite")
    finally:
        server.kill()
    assert exported.returncode == 0, exported.stderr
    assert server.image.read_bytes()[: len(old)] == old

    (image,) = Path(backups.address).rglob(f"{point}.qcow2")
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.chmod(0o600)
    image.write_bytes(content)
    damaged = restore(str(tmp_path / "w.img"), "--at", point)
    assert (damaged.returncode, point in damaged.stderr) == (1, True)
    assert not list(tmp_path.glob("w.img*"))


def test_files_come_back_from_the_point_that_had_them(backups: Backups, tmp_path: Path) -> None:
    need("mke2fs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=6, files=20)
    old = (tree / "etc/shadow").read_bytes()
    backups.add(make_ext(tmp_path / "image", tree, size_bytes=8 * MIB).read_bytes(), HOUR_US)
    (tree / "etc/shadow").write_bytes(b"new")
    backups.add(make_ext(tmp_path / "image", tree, size_bytes=8 * MIB).read_bytes(), 3 * HOUR_US)

    def restore(target: str, *more: str) -> subprocess.CompletedProcess[str]:
        return backups.run("restore", "v", "files", *more, "--to", target)

    target = str(tmp_path / "target")
    done = restore(target, "/etc", "--at", "1970-01-01T02:00:00Z", "--check")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target/etc/shadow").read_bytes() == old
    result = json.loads(done.stdout.splitlines()[-1])
    inside = list((tree / "etc").rglob("*"))
    folders = 1 + sum(path.is_dir() for path in inside)
    assert (result["files"], result["folders"]) == (len(inside) + 1 - folders, folders)
    assert (result["not_restored"], result["is_consistent"]) == (0, True)
    partly = restore(target, "/etc/shadow", "/nothing", "/empty")
    assert partly.returncode == 1
    problems = [json.loads(line) for line in partly.stdout.splitlines()[:-1]]
    assert {problem["path"]: problem["what"] for problem in problems} == {
        "/etc/shadow": "something of this name exists",
        "/nothing": "there is no such file",
    }
    assert (tmp_path / "target/etc/shadow").read_bytes() == old
    assert (tmp_path / "target/empty").exists()


@pytest.mark.skipif(bool(missing_for_mount()), reason="; ".join(missing_for_mount()))
def test_a_point_is_mounted_until_the_command_ends(backups: Backups, tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "target"
    make_tree(tree, seed=6, files=5)
    target.mkdir()
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", size_bytes=8 * MIB)
    backups.add(image.read_bytes(), HOUR_US)
    with backups.running("backup", "mount", "v", str(target)) as ready:
        assert ready["folder"] == str(target)
        assert (target / "etc/shadow").read_bytes() == (tree / "etc/shadow").read_bytes()
    assert not target.is_mount()
    assert backups.left() == []
    refused = backups.run("backup", "mount", "v", str(tree))
    assert (refused.returncode, list(target.iterdir())) == (2, [])
