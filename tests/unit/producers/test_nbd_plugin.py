"""nbdkit's Python plugin and the relay of the host, without nbdkit: writes of many threads."""

from __future__ import annotations

import errno
import importlib.util
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
from deadlines import DEADLINE_S, wait_until

from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice, Data
from mirrorlog.producers.nbd import relay
from mirrorlog.producers.nbd.relay import Relay
from mirrorlog.producers.writes.tracked_volume import TrackedVolume


class Volume:
    """Keeps what is written. held: writes to these offsets wait until they are let go."""

    def __init__(self) -> None:
        self.written: dict[int, bytes] = {}
        self.waiting: list[int] = []
        self.held, self.failing = {0}, {4096 * 3}
        self.let_go = threading.Event()

    def pwrite(self, data: Data, offset: int) -> None:
        if offset in self.held:
            self.waiting.append(offset)
            assert self.let_go.wait(DEADLINE_S)
        if offset in self.failing:
            raise DeviceFailed("full", where="here") from OSError(errno.ENOSPC, "full")
        self.written[offset] = bytes(data)


class Plugin:
    """plugin.py, and a thread for each of its writes, as nbdkit has. requests: sent so far."""

    def __init__(self, address: Path, patience_s: float) -> None:
        self.errors: list[int] = []
        nbdkit = SimpleNamespace(set_error=self.errors.append)
        path = Path(relay.__file__).with_name("plugin.py")
        specification = importlib.util.spec_from_file_location("nbd_plugin", path)
        assert specification is not None and specification.loader is not None
        self.module: Any = importlib.util.module_from_spec(specification)
        with mock.patch.dict(sys.modules, {"nbdkit": cast("ModuleType", nbdkit)}):
            specification.loader.exec_module(self.module)
        self.module.config("relay", str(address))
        self.module.PATIENCE_S = patience_s
        self.requests: list[list[Any]] = []
        exchange = self.module.exchange
        self.module.exchange = lambda batch: (self.requests.append(batch), exchange(batch))
        self.threads = ThreadPoolExecutor(16)

    def write(self, number: int) -> Future[None]:
        """Begin to write a block of the number's bytes."""
        data = memoryview(bytes([number]) * 4096)
        return self.threads.submit(self.module.pwrite, False, data, number * 4096, 0)

    def write_behind_held(self, numbers: list[int]) -> list[Future[None]]:
        """Begin to write block 0, which is held, and then the others. Return when all wait."""
        first = self.write(0)
        wait_until(lambda: bool(self.requests))
        rest = [self.write(number) for number in numbers]
        wait_until(lambda: len(self.module.writes.queue) == len(numbers))
        return [first, *rest]


@pytest.fixture
def volume() -> Volume:
    return Volume()


@pytest.fixture
def address(tmp_path: Path, volume: Volume) -> Iterator[Path]:
    path = tmp_path / "relay.sock"
    serving = Relay(path, cast("TrackedVolume", volume), cast("BlockDevice", None))
    yield path
    volume.let_go.set()
    serving.close()


def test_writes_that_come_while_others_are_under_way_go_in_one_request(
    address: Path, volume: Volume
) -> None:
    plugin = Plugin(address, patience_s=DEADLINE_S)
    begun = plugin.write_behind_held([1, 2, 4, 5])
    volume.let_go.set()
    for write in begun:
        write.result(DEADLINE_S)
    assert [len(batch) for batch in plugin.requests] == [1, 4]
    assert volume.written == {n * 4096: bytes([n]) * 4096 for n in (0, 1, 2, 4, 5)}


def test_a_slow_write_holds_no_other_up(address: Path, volume: Volume) -> None:
    plugin = Plugin(address, patience_s=0.01)
    first, *rest = [plugin.write(number) for number in (0, 1, 2, 4, 5)]
    del rest
    wait_until(lambda: volume.waiting == [0])
    later = [plugin.write(number) for number in (6, 7, 8)]
    for write in later:
        write.result(DEADLINE_S)
    assert not first.done()
    volume.let_go.set()
    first.result(DEADLINE_S)


class LateTurn:
    """The turn of a write whose thread loses patience in the moment in which it is to send."""

    def __init__(self, write: Any) -> None:
        self.write, self.lock = write, threading.Lock()
        self.lock.acquire()

    def acquire(self, timeout: float = -1) -> bool:
        if timeout < 0:
            return self.lock.acquire()
        wait_until(lambda: bool(self.write.sends))
        return False

    def release(self) -> None:
        self.lock.release()


def test_a_write_that_loses_patience_as_its_turn_comes_has_one_result(
    address: Path, volume: Volume
) -> None:
    plugin = Plugin(address, patience_s=DEADLINE_S)
    first = plugin.write(0)
    wait_until(lambda: bool(plugin.requests))
    late = plugin.module.Write(4096, memoryview(bytes(4096)))
    late.turn = LateTurn(late)
    second = plugin.threads.submit(plugin.module.writes.carry_out, late)
    wait_until(lambda: bool(plugin.module.writes.queue))
    volume.let_go.set()
    first.result(DEADLINE_S)
    second.result(DEADLINE_S)
    assert late.code == 0
    assert [len(batch) for batch in plugin.requests] == [1, 1]


def test_only_the_write_that_failed_is_reported_so(address: Path, volume: Volume) -> None:
    plugin = Plugin(address, patience_s=DEADLINE_S)
    begun = plugin.write_behind_held([1, 2, 3, 4])
    volume.let_go.set()
    failed = begun.pop(3)
    with pytest.raises(RuntimeError, match="full"):
        failed.result(DEADLINE_S)
    for write in begun:
        write.result(DEADLINE_S)
    assert plugin.errors == [errno.ENOSPC]
    assert sorted(volume.written) == [0, 4096, 2 * 4096, 4 * 4096]


def test_requests_have_a_limited_number_of_writes_and_bytes(address: Path, volume: Volume) -> None:
    plugin = Plugin(address, patience_s=DEADLINE_S)
    plugin.module.MOST_WRITES, plugin.module.MOST_BYTES = 3, 2 * 4096
    begun = plugin.write_behind_held([1, 2, 4, 5, 6])
    volume.let_go.set()
    for write in begun:
        write.result(DEADLINE_S)
    assert [len(batch) for batch in plugin.requests] == [1, 2, 2, 1]
    assert len(volume.written) == 6


def test_every_write_fails_when_the_host_is_gone(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path / "gone.sock", patience_s=DEADLINE_S)
    for write in [plugin.write(number) for number in range(8)]:
        with pytest.raises(RuntimeError, match="the connection to the host failed"):
            write.result(DEADLINE_S)
    assert plugin.errors == [errno.EIO] * 8
