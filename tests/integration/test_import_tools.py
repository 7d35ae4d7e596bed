"""What fio and QEMU leave for an import, with the real tools (docs/import.md).

The tests of fio say what is read, in doubt or refused. The tests of QEMU show the gaps that the
page names: an image changed, and the tool's answer doesn't say so.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deadlines import DEADLINE_S, wait_until
from import_cases import MIB, blocks_of, source
from notation import volume

from mirrorlog.errors import BadInput
from mirrorlog.producers.importers import FitOptions

pytestmark = pytest.mark.integration
BLOCKS = set(range(MIB // 4096))


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} isn't installed")


def run(folder: Path, command: str) -> str:
    """Run a command line without quotes, check that it succeeds, and return what it prints."""
    words = command.split()
    done = subprocess.run(
        words, cwd=folder, check=True, timeout=DEADLINE_S, capture_output=True, text=True
    )
    return done.stdout


def imported(kind: str, path: Path) -> tuple[set[int], list[str]]:
    """Return the dirty blocks of an import into a volume of 1 MiB, and the doubts."""
    import_source = source(kind, path)
    dirty, _ = blocks_of(import_source, volume(), FitOptions(allow_empty=True))
    return dirty, import_source.warnings


def fio(options: str) -> str:
    """Return a command line of fio that logs to `fio.log`. `options` follow those of all jobs."""
    return (
        "fio --filename=disk.raw --size=1M --bs=4k --rw=write --write_iolog=fio.log "
        f"--overwrite=1 {options}"
    )


@needs("fio")
def test_the_jobs_of_fio_that_run_one_after_the_other_share_a_log(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(MIB))
    two_jobs = "--number_ios=2 --name=a --name=b --stonewall --offset=64k --number_ios=1 --size=64k"
    run(tmp_path, fio(two_jobs))
    run(tmp_path, fio("--name=rerun --offset=128k --number_ios=1 --size=64k"))
    assert imported("fio", tmp_path / "fio.log") == ({0, 1, 16, 32}, [])


@needs("fio")
def test_the_jobs_of_fio_that_run_at_once_tear_their_log(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(MIB))
    run(tmp_path, fio("--name=a --numjobs=2 --time_based --runtime=1"))
    with pytest.raises(BadInput, match="Several jobs wrote to the log at once"):
        imported("fio", tmp_path / "fio.log")


@needs("fio")
def test_a_log_of_a_fio_that_was_killed_is_in_doubt_wherever_it_ends(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(MIB))
    log = tmp_path / "fio.log"
    process = subprocess.Popen(
        fio("--name=a --time_based --runtime=600 --thread --output=out").split(), cwd=tmp_path
    )
    try:
        wait_until(lambda: log.exists() and log.stat().st_size > 0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    content = log.read_bytes()
    log.write_bytes(content[: content.rindex(b"\n")])
    with pytest.raises(BadInput, match="has no line end"):
        imported("fio", log)
    log.write_bytes(content[: content.rindex(b"\n") + 1])
    dirty, doubts = imported("fio", log)
    assert dirty == BLOCKS and "doesn't close 'disk.raw'" in doubts[0]


@contextmanager
def bitmap_export(folder: Path, image: str, bitmap: str) -> Iterator[str]:
    """Serve an image and its dirty bitmap read-only with qemu-nbd, and give the URI."""
    socket = folder / "socket"
    command = (
        f"qemu-nbd --read-only --persistent --format=qcow2 --bitmap={bitmap} --socket={socket}"
    )
    process = subprocess.Popen([*command.split(), image], cwd=folder)
    try:
        wait_until(socket.exists)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


# Commands on images of 1 MiB, @FILE writes its second half, and the last image is then exported.
GAPS = {
    "a bitmap of a layer below": "create base.qcow2 1M, bitmap --add base.qcow2 b, "
    "create -b base.qcow2 -F qcow2 image.qcow2, @image.qcow2",
    "a bitmap that is disabled": "create image.qcow2 1M, bitmap --add --disable image.qcow2 b, "
    "@image.qcow2",
    "shrinking and growing": "create image.qcow2 1M, @image.qcow2, bitmap --add image.qcow2 b, "
    "resize --shrink image.qcow2 512k, resize image.qcow2 1M",
}


def run_qemu(folder: Path, commands: str) -> None:
    for command in commands.split(", "):
        if command.startswith("@"):
            words = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 512k 512k", command[1:]]
            subprocess.run(words, cwd=folder, check=True, capture_output=True)
        else:
            run(folder, f"qemu-img {command.replace('create', 'create -f qcow2')}")


@needs("qemu-img", "qemu-io", "qemu-nbd", "nbdinfo")
@pytest.mark.parametrize("case", GAPS)
def test_a_bitmap_of_qemu_that_lacks_a_change(tmp_path: Path, case: str) -> None:
    run_qemu(tmp_path, GAPS[case])
    with bitmap_export(tmp_path, "image.qcow2", "b") as uri:
        (tmp_path / "map").write_text(
            run(tmp_path, f"nbdinfo --map=qemu:dirty-bitmap:b --json {uri}")
        )
    dirty, doubts = imported("nbdinfo", tmp_path / "map")
    if dirty:
        pytest.skip("this QEMU's answer has the change: the page may drop the case")
    assert doubts == []


@needs("qemu-img", "qemu-io")
def test_the_map_of_an_overlay_that_was_committed_lacks_its_changes(tmp_path: Path) -> None:
    run_qemu(tmp_path, "create base.qcow2 1M, create -b base.qcow2 -F qcow2 image.qcow2")
    run_qemu(tmp_path, "@image.qcow2")
    second_half = {block for block in BLOCKS if block >= len(BLOCKS) // 2}
    for expected in (second_half, set()):
        listed = run(tmp_path, "qemu-img map --output=json image.qcow2")
        assert json.loads(listed)
        (tmp_path / "map").write_text(listed)
        assert imported("qemu-map", tmp_path / "map")[0] == expected
        run(tmp_path, "qemu-img commit image.qcow2")
