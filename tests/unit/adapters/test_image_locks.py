"""A host keeps other hosts and QEMU off its image, and they keep it off theirs."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from deadlines import DEADLINE_S

from mirrorlog.adapters.addresses import open_device, open_primary
from mirrorlog.adapters.file_device import FileDevice
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
        finally:
            qemu.terminate()
    open_primary(str(tmp_path / "volume"), exclusive=True).close()
