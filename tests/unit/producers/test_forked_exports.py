"""Forked writes by the native filter: a real nbdkit, a host of this process, Kafka in memory.

A secondary is a file in memory. It fails when it is sealed: each write to it is then refused.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Thread

import pytest
from deadlines import DEADLINE_S
from forking import SECONDARY_ID, Reports, report
from served_volume import GENERATION, ServedVolume, native_libraries

from mirrorlog.domain.commands import CommandKind, ForkOutcome
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import Data
from mirrorlog.producers.forks.fork_calls import ForkPorts, ThreadWorkers
from mirrorlog.producers.forks.fork_plans import ForkMode, ForkPlan
from mirrorlog.producers.forks.fork_states import ForkStateChange
from mirrorlog.producers.nbd.native import NativeLibraries
from mirrorlog.settings import load_settings

BLOCK, BLOCKS = 4096, 256
SIZE = BLOCK * BLOCKS


class Sealable:
    """ForkedDevice in memory, on a copy of `content`."""

    secondary_id, size_bytes = SECONDARY_ID, SIZE

    def __init__(self, content: bytes) -> None:
        self.fd = os.memfd_create("secondary", os.MFD_ALLOW_SEALING)
        os.pwrite(self.fd, content, 0)
        self.is_closed = False

    def fileno(self) -> int:
        return self.fd

    def seal(self) -> None:
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    def read(self) -> bytes:
        return os.pread(self.fd, SIZE, 0)

    def pwrite(self, offset: int, data: Data) -> None:
        raise AssertionError("only nbdkit writes")

    def zero(self, *, offset: int, length: int) -> None:
        raise AssertionError("only nbdkit writes")

    def flush(self) -> None:
        os.fdatasync(self.fd)

    def close(self) -> None:
        self.is_closed = True


class World:
    """A volume that is forked to `x` and `y`, whose sites know of everything and claim nothing."""

    def __init__(self, native: NativeLibraries, folder: Path, mode: str) -> None:
        self.now = {site: Sealable(bytes(SIZE)) for site in "xy"}
        self.states: dict[str, str] = {}
        self.changes: Counter[str] = Counter()
        self.reports = Reports()
        plan = ForkPlan({site: f"/{site}" for site in "xy"}, ForkMode.parse(mode))
        ports = ForkPorts(self.open, ThreadWorkers(), self.reports, self.on_change)
        self.served = ServedVolume(
            native, folder, SIZE, forks=(plan, ports), host_fork_retry_s=0.02
        )
        self.served.commands.published = lambda _command, position: self.report(position)

    def open(self, address: str, *, site: str, volume: str) -> Sealable:
        self.now[site] = Sealable(self.now[site].read())
        return self.now[site]

    def on_change(self, change: ForkStateChange) -> None:
        self.states[change.site] = change.state.name
        self.changes[f"{change.site} {change.state.name}"] += 1

    def report(self, position: int) -> None:
        for site in "xy":
            self.reports.by_site[site] = report(
                site,
                "v",
                watermark=position,
                applied=position,
                generation=GENERATION,
                state=SiteState.SYNCING,
            )

    def wait(self, is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < until, self.states
            time.sleep(0.002)

    def wait_in(self, sites: str = "xy") -> None:
        self.wait(lambda: all(self.states.get(site) == "IN" for site in sites))

    def fail(self, site: str) -> None:
        """Refuse all writes to a secondary, and wait until it has left the fork."""
        left = self.changes[f"{site} OUT"] + self.changes[f"{site} HUNG"]
        self.now[site].seal()
        self.wait(lambda: self.changes[f"{site} OUT"] + self.changes[f"{site} HUNG"] > left)

    def primary(self) -> bytes:
        return self.served.image.read_bytes()

    def missed(self, site: str) -> set[int]:
        """Return the blocks that the commands name, and not as what this secondary has."""
        blocks: set[int] = set()
        for command in self.served.commands.topic:
            if command.kind is CommandKind.MARK_DIRTY:
                return set(range(BLOCKS))
            forks = {fork.site: fork.outcomes for fork in command.forks}
            for number, extent in enumerate(command.extents):
                outcomes = forks.get(site, bytes(len(command.extents)))
                outcome = outcomes[number] if outcomes else ForkOutcome.HAS
                if outcome == ForkOutcome.MISSED:
                    blocks.update(range(extent.offset // BLOCK, -(-extent.end // BLOCK)))
        return blocks

    def differing(self, site: str) -> set[int]:
        mine, theirs = self.primary(), self.now[site].read()
        return {
            block
            for block in range(BLOCKS)
            if mine[block * BLOCK :][:BLOCK] != theirs[block * BLOCK :][:BLOCK]
        }


@pytest.fixture(scope="module")
def native() -> NativeLibraries:
    return native_libraries(load_settings(None, {}).cache_dir)


def write_at_random(world: World, seed: int, count: int) -> None:
    """Write, zero and trim ranges that overlap those of other threads, most of them in a few."""
    random = Random(seed)
    with world.served.connect(writable=True) as device:
        for _ in range(count):
            block = random.randrange(random.choice((4, BLOCKS - 4)))
            offset = block * BLOCK + random.choice((0, 512))
            length = random.choice((512, BLOCK, 3 * BLOCK))
            if random.random() < 0.1:
                device.zero(offset=offset, length=length)
            else:
                device.pwrite(offset, random.randbytes(length))


def write_in_threads(world: World, count: int, meanwhile: Callable[[], None]) -> None:
    threads = [Thread(target=write_at_random, args=(world, seed, count)) for seed in range(4)]
    for thread in threads:
        thread.start()
    meanwhile()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_what_is_forked_equals_the_primary_and_is_named_so(
    native: NativeLibraries, tmp_path: Path, mode: str
) -> None:
    world = World(native, tmp_path, mode)
    with world.served as served:
        world.wait_in()
        with served.connect(writable=True) as device:
            for block in range(20):
                device.pwrite(block * BLOCK, bytes([block + 1]) * BLOCK)
                if mode == "sync":
                    assert not world.differing("x") and not world.differing("y")
            device.flush()
        write_in_threads(world, 100, lambda: None)
        assert "no export named" in _refused_snapshot(served)
        served.nbdkit.stop()
    assert world.states == {"x": "CLOSED", "y": "CLOSED"}
    for site in "xy":
        assert not world.differing(site)
        assert not world.missed(site)
    # A thread of its own closes each, and the host doesn't wait for that.
    world.wait(lambda: all(secondary.is_closed for secondary in world.now.values()))
    named = sum(command.kind is CommandKind.WRITES for command in served.commands.topic)
    assert named > 1


def _refused_snapshot(served: ServedVolume) -> str:
    with pytest.raises(DeviceFailed) as refused:
        served.snapshot("token")
    return str(refused.value)


@pytest.mark.parametrize("mode", ["async", "quorum 1", "sync"])
def test_what_a_failing_secondary_lacks_is_named_as_missed(
    native: NativeLibraries, tmp_path: Path, mode: str
) -> None:
    """It fails again and again, comes back while writes go on, and nbdkit is killed at the end."""
    world = World(native, tmp_path, mode)

    def fail_at_times() -> None:
        for _ in range(4):
            world.wait_in("x")
            world.fail("x")

    with world.served as served:
        world.wait_in()
        threads = [
            Thread(target=_write_until_killed, args=(world, seed), daemon=True) for seed in range(3)
        ]
        for thread in threads:
            thread.start()
        fail_at_times()
        world.wait_in()
        served.nbdkit.kill()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
    for site in "xy":
        assert world.differing(site) <= world.missed(site)
    assert world.missed("x") > world.missed("y")


def _write_until_killed(world: World, seed: int) -> None:
    try:
        while True:
            write_at_random(world, seed, 1000)
    except DeviceFailed:
        pass
