"""Points over NBD and mounted: right, unchanged by clients, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from backup_images import ImageChain, random_chain, write_whole
from deadlines import wait_until
from file_images import MIB, make_ext, make_tree, new_image, run_tool
from nbd_servers import content_at

from mirrorlog.adapters.addresses import open_device
from mirrorlog.cli.support.point_exports import LEFT_BY_KILLED, exported_point
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.serving.mounting import (
    MountedPoint,
    MountRequest,
    missing_for_mount,
)
from mirrorlog.errors import BadInput, DeviceFailed
from mirrorlog.processes.nbd_server import NbdAddress

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd isn't installed"),
]
READ_ONLY_AND_WRITABLE = pytest.mark.parametrize("is_writable", [False, True])


def image_of(content: bytes, image: Path) -> Path:
    """Write an image of a whole volume."""
    write_whole(image, content)
    return image


@contextmanager
def served(
    image: Path, size_bytes: int, scratch: Path, *, is_writable: bool = False
) -> Iterator[str]:
    scratch.mkdir(exist_ok=True)
    listen = NbdAddress(scratch / "s")
    with exported_point(image, size_bytes, listen, is_writable=is_writable, scratch=scratch):
        yield listen.uri(tls=False)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(params=list(ImageLayout))
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> ImageChain:
    folder = tmp_path / "points"
    folder.mkdir()
    return random_chain(folder, request.param, points=3)


def test_each_point_is_served_and_cant_be_written(chain: ImageChain, tmp_path: Path) -> None:
    for path, content in zip(chain.paths, chain.contents, strict=True):
        with served(path, len(content), tmp_path / "scratch") as uri:
            assert content_at(uri) == content
            with pytest.raises(DeviceFailed), open_device(uri, writable=True) as device:
                device.pwrite(0, b"x" * 4096)
    assert {path.name for path in (tmp_path / "scratch").iterdir()} <= {"qemu-nbd.pid"}


def test_what_clients_write_is_for_all_of_them_and_gone_at_the_end(
    chain: ImageChain, tmp_path: Path
) -> None:
    before = files_in(chain.folder)
    content = bytearray(chain.contents[0])
    with served(chain.paths[0], len(content), tmp_path / "scratch", is_writable=True) as uri:
        with open_device(uri, writable=True) as device:
            for offset, data in (
                (0, b"\1" * 512),
                (5000, b"\2" * 70_000),
                (len(content) - 9, b"z"),
            ):
                device.pwrite(offset, data)
                content[offset : offset + len(data)] = data
            device.zero(offset=4096, length=8192)
            content[4096:12_288] = bytes(8192)
            device.flush()
            assert content_at(uri) == content
        assert content_at(uri) == content
        names = {path.name for path in (tmp_path / "scratch").iterdir()}
        assert names == {"s", "qemu-nbd.pid"}  # what is written has no name
    assert files_in(chain.folder) == before
    with served(chain.paths[0], len(content), tmp_path / "scratch", is_writable=True) as uri:
        assert content_at(uri) == chain.contents[0]


@READ_ONLY_AND_WRITABLE
def test_a_prune_takes_nothing_away_from_an_export_that_runs(
    chain: ImageChain, tmp_path: Path, *, is_writable: bool
) -> None:
    content = chain.contents[0]
    with served(chain.paths[0], len(content), tmp_path / "scratch", is_writable=is_writable) as uri:
        other = tmp_path / "other"
        for path in chain.paths:
            other.write_bytes(b"another image")
            other.replace(path)
        assert content_at(uri) == content
        for path in chain.paths:
            path.unlink()
        assert content_at(uri) == content


@READ_ONLY_AND_WRITABLE
@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed")
def test_a_volume_that_ends_within_a_sector_has_its_true_size(
    tmp_path: Path, *, is_writable: bool
) -> None:
    content = os.urandom(1_000_001)
    image = image_of(content, tmp_path / "point.qcow2")
    with served(image, len(content), tmp_path / "scratch", is_writable=is_writable) as uri:
        assert content_at(uri) == content
        if is_writable:
            with open_device(uri, writable=True) as device:
                device.pwrite(len(content) - 3, b"end")
            assert content_at(uri) == content[:-3] + b"end"
    assert [path.name for path in (tmp_path / "scratch").iterdir() if path.is_socket()] == []


SERVES = """
import sys
from pathlib import Path
from mirrorlog.cli.support.point_exports import exported_point
from mirrorlog.processes.nbd_server import NbdAddress
image, size, scratch = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
listen = NbdAddress(scratch / "s")
with exported_point(image, size, listen, is_writable=True, scratch=scratch) as servers:
    print(*(server.pid for server in servers), flush=True)
    sys.stdin.read()
"""


def test_the_server_ends_with_its_parent(chain: ImageChain, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    size = str(len(chain.contents[0]))
    parent = subprocess.Popen(
        [sys.executable, "-c", SERVES, chain.paths[0], size, scratch],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        pids = [int(text) for text in parent.stdout.readline().split()]
        assert pids
        parent.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    finally:
        parent.kill()
        parent.communicate()
    assert {path.name for path in scratch.iterdir()} <= set(LEFT_BY_KILLED)


needs_mount = pytest.mark.skipif(
    bool(missing_for_mount()), reason=f"no mount here: {'; '.join(missing_for_mount())}"
)


def torn_ext4(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """Return an ext4 file system as of a moment when it was mounted, and files that are in it.

    They are in its journal only: it must be replayed.
    """
    tree, mounted = folder / "tree", folder / "mounted"
    make_tree(tree, seed=2, files=5)
    live = make_ext(folder / "live", tree, "-t", "ext4", size_bytes=24 * MIB)
    mounted.mkdir()
    wanted = {}
    subprocess.run(["mount", "-o", "loop,commit=1000", live, mounted], check=True)
    try:
        for number in range(20):
            path = mounted / f"late {number}"
            path.write_bytes(wanted.setdefault(path.name, os.urandom(5000)))
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.copyfile(live, folder / "raw")
    finally:
        subprocess.run(["umount", mounted], check=True)
    return folder / "raw", wanted


def loops_of(file: Path) -> int:
    """Return how many loop devices stand on files in a folder."""
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.count(str(file))


@needs_mount
def test_a_point_is_mounted_as_of_its_moment_and_leaves_nothing(tmp_path: Path) -> None:
    raw, wanted = torn_ext4(tmp_path)
    size, image = raw.stat().st_size, image_of(raw.read_bytes(), tmp_path / "point.qcow2")
    before = image.read_bytes()
    target, work = tmp_path / "target", tmp_path / "work"
    target.mkdir()
    work.mkdir()
    with served(image, size, tmp_path / "scratch", is_writable=True) as uri:
        mounted = MountedPoint(MountRequest(uri=uri, target=str(target), work=str(work)))
        try:
            assert {name: (target / name).read_bytes() for name in wanted} == wanted
            assert (target / "etc/shadow").read_bytes().startswith(b"root")
            with pytest.raises(OSError, match="Read-only"):
                (target / "new").touch()
            assert mounted.is_mounted
            mounted.check()
        finally:
            is_left = mounted.close()
        assert not is_left
        assert not mounted.is_mounted
    assert (list(target.iterdir()), list(work.iterdir()), loops_of(work)) == ([], [], 0)
    assert image.read_bytes() == before


@needs_mount
def test_a_mount_in_use_is_detached_and_said(tmp_path: Path) -> None:
    raw = make_ext(tmp_path / "raw", _small_tree(tmp_path), "-t", "ext4", size_bytes=8 * MIB)
    size, image = raw.stat().st_size, image_of(raw.read_bytes(), tmp_path / "point.qcow2")
    target, work = tmp_path / "target", tmp_path / "work"
    target.mkdir()
    work.mkdir()
    with served(image, size, tmp_path / "scratch", is_writable=True) as uri:
        request = MountRequest(uri=uri, target=str(target), work=str(work), busy_s=0.1)
        mounted = MountedPoint(request)
        with (target / "file").open("rb"):
            assert mounted.close()
            assert not mounted.is_mounted
    wait_until(lambda: loops_of(work) == 0)


@needs_mount
def test_what_is_no_file_system_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    size, image = MIB, image_of(bytes(MIB), tmp_path / "point.qcow2")
    target, work = tmp_path / "target", tmp_path / "work"
    target.mkdir()
    work.mkdir()
    with (
        served(image, size, tmp_path / "scratch", is_writable=True) as uri,
        pytest.raises(BadInput, match="can't be mounted"),
    ):
        MountedPoint(MountRequest(uri=uri, target=str(target), work=str(work)))
    assert (list(work.iterdir()), loops_of(work)) == ([], 0)


@needs_mount
@pytest.mark.parametrize("victim", ["parent", "guard"])
def test_a_kill_leaves_no_mount(victim: str, tmp_path: Path) -> None:
    raw = make_ext(tmp_path / "raw", _small_tree(tmp_path), "-t", "ext4", size_bytes=8 * MIB)
    size, image = raw.stat().st_size, image_of(raw.read_bytes(), tmp_path / "point.qcow2")
    target, work, scratch = (tmp_path / name for name in ("target", "work", "scratch"))
    for folder in (target, work, scratch):
        folder.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", MOUNTS_AND_WAITS, image, str(size), scratch, target, work],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        guard = int(parent.stdout.readline())
        assert (target / "file").read_bytes() == b"content"
        os.kill(parent.pid if victim == "parent" else guard, signal.SIGKILL)
        wait_until(lambda: not _is_mounted(target) and not _is_mounted(work))
        wait_until(lambda: loops_of(work) == 0)
    finally:
        parent.kill()
        parent.communicate()
        subprocess.run(["umount", "-l", target], check=False, capture_output=True)
    assert list(target.iterdir()) == []


@needs_mount
def test_a_partition_is_mounted_by_its_number(tmp_path: Path) -> None:
    tree = _small_tree(tmp_path)
    part = make_ext(tmp_path / "part", tree, "-t", "ext4", size_bytes=8 * MIB)
    raw = new_image(tmp_path / "raw", 20 * MIB)
    table = "label: dos\nsize=4MiB\nsize=14MiB,type=5\n5:size=1MiB\n6:size=9MiB\n"
    run_tool("sfdisk", "-q", raw, input=table)
    listed = run_tool("sfdisk", "--dump", raw).splitlines()[-1]
    start = int(listed.split("start=")[1].split(",")[0]) * 512
    with raw.open("r+b") as file:
        file.seek(start)
        file.write(part.read_bytes())
    size, image = raw.stat().st_size, image_of(raw.read_bytes(), tmp_path / "point.qcow2")
    target, work = tmp_path / "target", tmp_path / "work"
    target.mkdir()
    work.mkdir()
    with served(image, size, tmp_path / "scratch", is_writable=True) as uri:
        request = MountRequest(uri=uri, target=str(target), work=str(work))
        mounted = MountedPoint(replace(request, partition=3))
        assert (target / "file").read_bytes() == b"content"
        mounted.close()
        with pytest.raises(BadInput, match="no partition 4: the volume has 3"):
            MountedPoint(replace(request, partition=4))


MOUNTS_AND_WAITS = """
import sys
from pathlib import Path
from deadlines import wait_until
from mirrorlog.cli.support.point_exports import exported_point
from mirrorlog.consumers.backup.serving.mounting import MountedPoint, MountRequest
from mirrorlog.errors import PartFailed
from mirrorlog.processes.nbd_server import NbdAddress
image, size, scratch = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
listen = NbdAddress(scratch / "s")
with exported_point(image, size, listen, is_writable=True, scratch=scratch):
    uri = listen.uri(tls=False)
    mounted = MountedPoint(MountRequest(uri=uri, target=sys.argv[4], work=sys.argv[5]))
    print(mounted.pid, flush=True)
    try:
        wait_until(lambda: False, mounted.check)
    except PartFailed:
        mounted.close()
"""


def _is_mounted(folder: Path) -> bool:
    return f" {folder} " in Path("/proc/self/mountinfo").read_text("utf-8")


def _small_tree(folder: Path) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content")
    return tree
