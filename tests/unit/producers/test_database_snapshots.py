"""A database is whole in each snapshot of the volume that it writes to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from databases import BLOCK, Ledger, apsw, check_ledger, connected, create_ledger, deposit
from served_volume import ServedVolume, native_libraries

from mirrorlog.producers.nbd.native import NativeLibraries
from mirrorlog.settings import load_settings
from mirrorlog.simulation.memory_devices import MemoryDevice

SIZE = 512 * BLOCK


@pytest.fixture(scope="module")
def native() -> NativeLibraries:
    return native_libraries(load_settings(None, {}).cache_dir)


def opened(image: bytes) -> MemoryDevice:
    """Return a disk with these bytes."""
    device = MemoryDevice(len(image))
    device.pwrite(0, image)
    device.flush()
    return device


def test_each_snapshot_holds_every_transaction_that_was_acknowledged(
    native: NativeLibraries, tmp_path: Path
) -> None:
    with ServedVolume(native, tmp_path, SIZE) as served:
        ledger = Ledger(partial(served.connect, writable=True))
        with ledger.writing():
            for number in range(5):
                ledger.wait_for(15 * (number + 1))
                before = ledger.acknowledged
                snapshot, _ = served.snapshot(f"s{number}")
                after = ledger.begun
                with snapshot:
                    image = bytes(snapshot.pread(offset=0, length=SIZE))
                assert check_ledger(opened(image), at_least=before) <= after


def test_a_copy_of_two_moments_is_found_out() -> None:
    """What a copy without a snapshot holds: the database of one moment, the log of another."""
    device = opened(bytes(SIZE))
    with connected(device) as connection:
        create_ledger(connection)
        for number in range(1, 50):
            deposit(connection, number)
        first = device.pread(offset=0, length=SIZE // 2)
        for number in range(50, 120):
            deposit(connection, number)
        rest = device.pread(offset=SIZE // 2, length=SIZE - SIZE // 2)
        whole = device.pread(offset=0, length=SIZE)
        assert check_ledger(opened(whole), at_least=119) == 119
    with pytest.raises((AssertionError, apsw.Error)):
        check_ledger(opened(first + rest), at_least=49)
