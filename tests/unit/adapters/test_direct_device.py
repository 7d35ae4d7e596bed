"""DirectDevice beyond the contract of BlockDevice (tests/contract/test_devices.py)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.direct_device import DirectDevice
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice


def create(path: Path, size_bytes: int) -> BlockDevice:
    """Create a DirectDevice. Skip the test if the file system has no O_DIRECT."""
    try:
        return DirectDevice.create(path, size_bytes)
    except BadUse as error:
        return pytest.skip(str(error))


def test_concurrent_writes_of_a_block_and_of_a_part_of_it_keep_both(tmp_path: Path) -> None:
    """A write of a few bytes with O_DIRECT reads and rewrites the rest of their block."""
    stopped = Event()
    with create(tmp_path / "volume", 2 * 4096) as device, ThreadPoolExecutor(2) as pool:

        def write_the_edge() -> None:
            while not stopped.is_set():
                device.pwrite(4000, b"e" * 192)  # the end of one block, the beginning of the next

        pool.submit(write_the_edge)
        lost = 0
        try:
            for number in range(200):
                data = bytes([number + 1]) * 4096
                device.pwrite(0, data)
                lost += device.pread(offset=0, length=4000) != data[:4000]
        finally:
            stopped.set()
        assert lost == 0


def test_a_size_that_is_no_multiple_of_the_alignment_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "volume", 4096).close()
    FileDevice.create(tmp_path / "odd", 4096 + 100).close()
    with pytest.raises(BadUse, match="4196 bytes aren't a multiple"):
        open_device(f"{(tmp_path / 'odd').as_uri()}?direct=1", writable=True)
