"""The locks of a site's workers keep what the port says, in a folder and in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from suspending import suspend

from mirrorlog.consumers.workers.folder_locks import FolderLocks
from mirrorlog.consumers.workers.worker_locks import WorkerLocks
from mirrorlog.simulation.memory_locks import LockTable

OpenLocks = Callable[[], WorkerLocks]


@pytest.fixture(params=["folder", "memory"])
def open_locks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLocks]:
    table = LockTable()
    with ExitStack() as stack:

        def opened() -> WorkerLocks:
            locks = FolderLocks(tmp_path) if request.param == "folder" else table.open()
            stack.callback(locks.close)
            return locks

        yield opened


def test_a_worker_locks_the_lowest_free_slot(open_locks: OpenLocks) -> None:
    first, second, third = open_locks(), open_locks(), open_locks()
    assert [locks.lock_slot() for locks in (first, second, third)] == [0, 1, 2]
    assert first.live_slots() == third.live_slots() == {0, 1, 2}
    second.close()
    assert first.live_slots() == {0, 2}
    assert second.live_slots() == {0, 2}
    assert open_locks().lock_slot() == 1
    assert first.lock_slot() == 0


def test_slots_are_seen_by_who_has_none(open_locks: OpenLocks) -> None:
    seeing = open_locks()
    assert seeing.live_slots() == frozenset()
    open_locks().lock_slot()
    assert seeing.live_slots() == {0}


def test_one_worker_has_a_partition(open_locks: OpenLocks) -> None:
    one, other = open_locks(), open_locks()
    assert one.lock_partition(3)
    assert one.lock_partition(3)
    assert not other.lock_partition(3)
    assert other.lock_partition(4)
    other.unlock_partition(3)  # it isn't its own
    assert not other.lock_partition(3)
    one.unlock_partition(3)
    assert other.lock_partition(3)
    assert not one.lock_partition(3)


def test_a_partition_that_nobody_has_is_seen_by_all(open_locks: OpenLocks) -> None:
    one, other = open_locks(), open_locks()
    assert one.free_partitions(3) == {0, 1, 2}
    assert one.lock_partition(1)
    assert one.free_partitions(3) == other.free_partitions(3) == {0, 2}
    assert other.lock_partition(2)  # looking locks nothing
    one.close()
    assert other.free_partitions(3) == {0, 1}


def test_one_worker_starts_at_a_time(open_locks: OpenLocks) -> None:
    one, other = open_locks(), open_locks()
    assert one.lock_start()
    assert one.lock_start()
    assert not other.lock_start()
    one.unlock_start()
    assert other.lock_start()


def test_what_a_worker_has_is_free_when_it_ends(open_locks: OpenLocks) -> None:
    one, other = open_locks(), open_locks()
    assert one.lock_start()
    one.lock_slot()
    assert one.lock_partition(0)
    one.close()
    assert other.lock_start()
    assert other.lock_slot() == 0
    assert other.lock_partition(0)


_CHILD = """
import sys
from pathlib import Path
from mirrorlog.consumers.workers.folder_locks import FolderLocks
locks = FolderLocks(Path(sys.argv[1]))
print(locks.lock_slot(), locks.lock_partition(0), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("is_stopped", [False, True], ids=["running", "stopped"])
def test_a_process_keeps_its_locks_until_it_is_killed(tmp_path: Path, is_stopped: bool) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "0 True\n"
        if is_stopped:
            suspend(child.pid)
        locks = FolderLocks(tmp_path)
        assert locks.live_slots() == {0}
        assert not locks.lock_partition(0)
        assert locks.lock_slot() == 1
    finally:
        child.kill()
        child.communicate()
    assert locks.lock_partition(0)
    assert locks.live_slots() == {1}
    locks.close()
