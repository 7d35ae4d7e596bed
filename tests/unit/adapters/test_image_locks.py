"""A host keeps other hosts and QEMU off its image, and they keep it off theirs."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import IO

import pytest
from deadlines import DEADLINE_S

from mirrorlog.adapters.addresses import open_device, open_primary
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import ImageUser, lock_image, lock_secondary
from mirrorlog.errors import BadUse

SIZE = 3 * 4096 + 512


def test_two_hosts_exclude_each_other(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "volume", SIZE).close()
    address = str(tmp_path / "volume")
    with open_primary(address, exclusive=True):
        for locked in (address, (tmp_path / "volume").as_uri()):
            with pytest.raises(BadUse, match="another process on this machine"):
                open_primary(locked, exclusive=True)
        open_device(address, writable=False).close()  # sites read it
        open_primary(address, exclusive=False).close()  # a volume that is shared
    open_primary(address, exclusive=True).close()


def lock_as(user: str, file: IO[bytes]) -> None:
    if user == "host":
        lock_image(file.fileno(), "image")
    else:
        lock_secondary(file.fileno(), "image", ImageUser[user.upper()])


@pytest.mark.parametrize("first", ["host", "site", "fork"])
@pytest.mark.parametrize("second", ["host", "site", "fork"])
def test_a_site_and_a_fork_let_each_other_in_and_nobody_else(
    tmp_path: Path, first: str, second: str
) -> None:
    FileDevice.create(tmp_path / "volume", SIZE).close()
    path = tmp_path / "volume"
    with path.open("r+b") as one, path.open("r+b") as two:
        lock_as(first, one)
        if {first, second} == {"site", "fork"}:
            lock_as(second, two)
            for user in ("host", "site", "fork"):
                with path.open("r+b") as three, pytest.raises(BadUse, match="another process"):
                    lock_as(user, three)
        else:
            with pytest.raises(BadUse, match="another process"):
                lock_as(second, two)
    with path.open("r+b") as three:
        lock_as(second, three)


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils isn't installed")
@pytest.mark.parametrize("user", ["site", "fork"])
def test_qemu_writes_to_no_secondary(tmp_path: Path, user: str) -> None:
    FileDevice.create(tmp_path / "volume", 1 << 20).close()
    command = ["qemu-io", "-f", "raw", str(tmp_path / "volume"), "-c"]
    with (tmp_path / "volume").open("r+b") as file:
        lock_as(user, file)
        done = subprocess.run(
            [*command, "write 0 512"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "lock" in done.stderr) == (1, True)
        reading = ["qemu-io", "-r", *command[1:], "read 0 512"]
        assert subprocess.run(reading, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-utils isn't installed")
def test_qemu_and_a_host_exclude_each_other(tmp_path: Path) -> None:
    FileDevice.create(tmp_path / "volume", 1 << 20).close()
    command = ["qemu-io", "-f", "raw", str(tmp_path / "volume"), "-c", "write 0 512"]
    with open_primary(str(tmp_path / "volume"), exclusive=True):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "lock" in done.stderr) == (1, True)
    socket = tmp_path / "socket"
    serving = [
        "qemu-nbd",
        "--persistent",
        "--format=raw",
        f"--socket={socket}",
        str(tmp_path / "volume"),
    ]
    with subprocess.Popen(serving) as qemu:
        try:
            until = time.monotonic() + DEADLINE_S
            asking = ["qemu-img", "info", f"nbd+unix:///?socket={socket}"]
            while subprocess.run(
                asking, capture_output=True, check=False
            ).returncode:  # it listens before it opens the image
                assert qemu.poll() is None and time.monotonic() < until
            with pytest.raises(BadUse, match="QEMU"):
                open_primary(str(tmp_path / "volume"), exclusive=True)
            for user in ("site", "fork"):
                with (tmp_path / "volume").open("r+b") as file, pytest.raises(BadUse, match="QEMU"):
                    lock_as(user, file)
        finally:
            qemu.terminate()
    open_primary(str(tmp_path / "volume"), exclusive=True).close()
