"""QEMU's tools open the images of backups, and read what the volume held."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from backup_images import ImageChain, random_chain
from deadlines import DEADLINE_S, wait_until
from qemu_images import check_content, qemu_img

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_map import open_map
from mirrorlog.errors import StateDamaged

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img isn't installed"),
]
LAYOUTS = pytest.mark.parametrize("layout", list(ImageLayout))


@pytest.fixture(params=[*ImageLayout, "compressed"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> ImageChain:
    is_compressed = request.param == "compressed"
    layout = ImageLayout.CLUSTERS if is_compressed else request.param
    return random_chain(tmp_path, layout, points=5, is_compressed=is_compressed)


def test_check_convert_and_compare_agree_with_the_volume_at_each_point(chain: ImageChain) -> None:
    raw, copy = chain.folder / "raw", chain.folder / "copy"
    for path, content in zip(chain.paths, chain.contents, strict=True):
        qemu_img("check", path)
        raw.write_bytes(content)
        qemu_img("convert", "-O", "raw", path, copy)
        assert copy.read_bytes() == content
        check_content(path, raw)


def test_shared_clusters_are_there_and_accepted(tmp_path: Path) -> None:
    chain = ImageChain(tmp_path, ImageLayout.SUBCLUSTERS, 4096)
    chain.resize(64 << 20)
    for block in range(0, 16384, 33):
        chain.write(block, block)
    path = chain.take_point()
    report = json.loads(qemu_img("check", "--output=json", path))
    assert report["allocated-clusters"] == 497
    assert path.stat().st_size < 40 * (128 << 10)  # so clusters share host clusters
    assert not report["check-errors"]


def test_compressed_clusters_are_there_and_take_less(tmp_path: Path) -> None:
    chain = random_chain(tmp_path, ImageLayout.CLUSTERS, points=1, is_compressed=True)
    report = json.loads(qemu_img("check", "--output=json", chain.paths[0]))
    assert 0 < report["compressed-clusters"] < report["allocated-clusters"]
    assert chain.written[0].stored_bytes < chain.written[0].data_bytes


def test_the_map_of_qemu_is_the_same(chain: ImageChain) -> None:
    with ChainReader(chain.paths) as reader:
        ours = bytearray(len(chain.contents[0]))
        for offset, length in reader.allocated():
            ours[offset : offset + length] = b"\1" * length
    theirs = bytearray(len(chain.contents[0]))
    for extent in json.loads(qemu_img("map", "--output=json", chain.paths[0])):
        if extent["data"]:
            end = extent["start"] + extent["length"]
            theirs[extent["start"] : end] = b"\1" * extent["length"]
    assert theirs == ours


@pytest.mark.skipif(
    shutil.which("qemu-nbd") is None or shutil.which("nbdcopy") is None,
    reason="qemu-nbd or nbdcopy isn't installed",
)
def test_qemu_nbd_serves_each_point(chain: ImageChain) -> None:
    copy = chain.folder / "copy"
    for path, content in zip(chain.paths, chain.contents, strict=True):
        serving = ["qemu-nbd", "-r", "-f", "qcow2", str(path)]
        copy.unlink(missing_ok=True)
        subprocess.run(
            ["nbdcopy", "--", "[", *serving, "]", str(copy)], check=True, timeout=DEADLINE_S
        )
        assert copy.read_bytes() == content


WRITER = """
import os, sys
from pathlib import Path
from backup_images import ImageChain
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.backup.qcow2.format import ImageLayout

flush = FileDevice.flush
def stop_after_flush(device):
    flush(device)
    print("durable", flush=True)
    sys.stdin.read()
FileDevice.flush = stop_after_flush
chain = ImageChain(Path(sys.argv[1]), ImageLayout(sys.argv[2]), 4096)
chain.resize(1 << 20)
for block in range(100):
    chain.write(block, block)
chain.take_point()
"""


@LAYOUTS
def test_a_kill_between_data_and_header_leaves_no_image(
    layout: ImageLayout, tmp_path: Path
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), layout],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"durable\n"
        path = tmp_path / "point0.qcow2"
        wait_until(path.exists)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    with pytest.raises(StateDamaged, match="qcow2"):
        open_map(path)
    opened = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", path],
        check=False,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert opened.returncode != 0
