"""Reading an image costs no more than a process of its own, whatever becomes of that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from file_images import make_ext, make_tree, need
from nbd_servers import Nbdkit, skip_without

from mirrorlog.consumers.file_names.owners import OwnerKind
from mirrorlog.consumers.file_names.scan_process import ScanLimits, index_of
from mirrorlog.errors import BadInput, DeviceFailed

SCAN = "import mirrorlog.consumers.file_names.scan as scan, sys; {}; sys.exit(scan.main())"
# what the process does instead of reading | what is said of it
ENDS = {
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "it ended by SIGSEGV",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "the machine may lack memory",
    "import sys; sys.exit('a library gave up')": "a library gave up",
    "import sys; sys.exit(3)": "it ended with exit code 3",
    "print('nonsense')": "its answer makes no sense",
    "import sys; print('[]'); sys.exit(1)": "it ended with exit code 1",
}


def stub(body: str) -> list[str]:
    return [sys.executable, "-c", body]


@pytest.mark.parametrize("body", ENDS)
def test_each_way_to_end_is_one_error(body: str, tmp_path: Path) -> None:
    need()
    with pytest.raises(BadInput, match=ENDS[body]):
        index_of(str(tmp_path), command=stub(body))


def test_what_doesnt_end_is_ended(tmp_path: Path) -> None:
    need()
    loop = stub(SCAN.format("scan._scan = lambda address: next(filter(None, iter(int, 1)))"))
    with pytest.raises(BadInput, match="all the processor time"):
        index_of(str(tmp_path), ScanLimits(cpu_s=1), command=loop)
    with pytest.raises(BadInput, match="it took over 0"):
        index_of(
            str(tmp_path), ScanLimits(wall_s=0.1), command=stub("import signal; signal.pause()")
        )


def test_memory_and_answers_are_bounded(tmp_path: Path) -> None:
    need()
    greedy = stub(SCAN.format("scan._scan = lambda address: bytes(1 << 34)"))
    with pytest.raises(BadInput, match="all the memory"):
        index_of(str(tmp_path), ScanLimits(memory_bytes=1 << 30), command=greedy)
    talkative = stub("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    with pytest.raises(BadInput, match="its answer is too long"):
        index_of(str(tmp_path), ScanLimits(memory_bytes=1 << 22), command=talkative)


def test_the_process_answers_for_an_image_and_says_what_cant_be_opened(tmp_path: Path) -> None:
    need("mke2fs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=3)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4")
    before = image.read_bytes()
    index = index_of(image.as_uri())
    assert OwnerKind.FILE in {owner.kind for owner in index.all_owners}
    assert len(index.extents_of(b"/etc/shadow")[0]) == 1
    assert 0 < index.began_at_us <= index.read_at_us
    assert image.read_bytes() == before
    with pytest.raises(DeviceFailed, match="No such file"):
        index_of(str(tmp_path / "missing"))


def test_an_nbd_export_is_read_and_xfs_on_it_is_said_not_to_be(tmp_path: Path) -> None:
    need("mke2fs")
    server = Nbdkit(tmp_path, "--readonly")
    skip_without(server)
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=3)
    make_ext(server.image, tree, "-t", "ext4")
    server.start()
    try:
        index = index_of(server.uri)
        assert len(index.extents_of(b"/etc/shadow")[0]) == 1
        assert index.size_bytes == server.image.stat().st_size
    finally:
        server.stop()
    with server.image.open("r+b") as file:
        file.write(b"XFSB".ljust(1 << 16, b"\0"))
    server.start()
    try:
        (area,) = index_of(server.uri).areas
        assert "XFS in a partition or on an NBD export" in area.notes[0]
    finally:
        server.stop()
