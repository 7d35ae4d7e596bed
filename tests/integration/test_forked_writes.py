"""Forked writes with a real broker, node and sites.

A site copies what the fork missed, and nothing that it brought.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from random import Random

import pytest
from deadlines import DEADLINE_S
from running import Outcome, wait_for_result
from suspending import suspend

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import Data
from mirrorlog.processes.child_processes import ChildMessage, ChildProcess
from mirrorlog.producers import open_volume
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.forks.fork_calls import ForkPorts, ThreadWorkers
from mirrorlog.producers.forks.fork_plans import ForkMode, ForkPlan
from mirrorlog.producers.forks.fork_states import ForkState, ForkStateChange
from mirrorlog.producers.forks.marked_secondary import MarkedSecondary, open_marked_secondary
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import inherited_environment

pytestmark = pytest.mark.integration

BLOCK, BLOCKS = 4096, 4096
SIZE = BLOCK * BLOCKS
PATIENT = {"host_fork_timeout_s": DEADLINE_S}
"""No test here waits for a secondary to be too slow, so a busy machine must not put one out."""


class Flaky:
    """A secondary that fails while `is_broken` says so."""

    def __init__(self, secondary: MarkedSecondary, is_broken: Callable[[], bool]) -> None:
        self.secondary, self.is_broken = secondary, is_broken
        self.size_bytes, self.secondary_id = secondary.size_bytes, secondary.secondary_id
        self.zero, self.flush, self.close = secondary.zero, secondary.flush, secondary.close

    def pwrite(self, offset: int, data: Data) -> None:
        if self.is_broken():
            self.secondary.pwrite(offset, bytes(data)[: len(data) // 2])
            raise DeviceFailed("broken by the test", where=f"the secondary, offset {offset}")
        self.secondary.pwrite(offset, data)


def start_world(run: Run, stack: ExitStack) -> tuple[Volume, FileDevice]:
    """Start a node and two sites. Return a volume, and its primary's device."""
    for start in (
        run.start_node,
        lambda: run.start_site("site-a"),
        lambda: run.start_site("site-b"),
    ):
        start()
    run.wait_ready("node", "site-a", "site-b")
    client, topic = run.settings.kafka_client(), run.settings.topics.commands
    publisher, admin = KafkaPublisher(client), KafkaAdmin(client)
    ends = [admin.end_position(topic, number) for number in range(admin.partitions(topic))]
    path = run.folder / "primary" / "v.img"
    path.parent.mkdir()
    device = stack.enter_context(FileDevice.create(path, SIZE))
    volume = new_volume(
        "v",
        size_bytes=SIZE,
        block_size=BLOCK,
        primary=path.as_uri(),
        ends=ends,
        now_us=SystemClock().now_us(),
    )
    publish_volume(publisher, run.settings.topics, volume)
    publisher.flush(DEADLINE_S)
    publisher.close()
    admin.close()
    return volume, device


def copied(run: Run, last_positions: Mapping[str, int]) -> dict[str, int]:
    """Return how many blocks each site has copied, once both are proved to equal the primary."""
    outcome, blocks_copied = Outcome(run), {}
    for site in ("site-a", "site-b"):
        outcome.wait_consistent(site, last_positions)
        assert outcome.identical(site)
        blocks_copied[site] = outcome.reports["v"].blocks_copied
    return blocks_copied


class World:
    """One volume, two sites, and in this process a host that forks to site-a."""

    def __init__(self, run: Run, mode: str, stack: ExitStack) -> None:
        self.run, self.random, self.is_broken = run, Random(1), False
        self.states: list[ForkState] = []
        volume, device = start_world(run, stack)
        settings = run.settings.model_copy(
            update={
                "region_bytes": 16 * BLOCK,
                "hot_regions": 8,
                "host_fork_retry_s": 0.2,
                **PATIENT,
            }
        )
        client, clock = settings.kafka_client(), SystemClock()
        publisher, admin, reader = KafkaPublisher(client), KafkaAdmin(client), KafkaReader(client)
        for client_part in (publisher, admin, reader):
            stack.callback(client_part.close)
        forks = ForkPorts(
            self.open,
            ThreadWorkers(),
            SiteReports(reader, admin, settings.topics, clock),
            self.on_state_change,
        )
        folder = DiskFolder(run.folder / "host")
        self.host = Host(
            "h",
            HostPorts(folder, publisher, clock, open_device, forks=forks),
            settings,
            {"v": volume},
        )
        plan = ForkPlan({"site-a": str(run.folder / "site-a" / "v.img")}, ForkMode.parse(mode))
        self.volume: TrackedVolume = self.host.open_all(
            [OpenRequest(volume, device, True, forks=plan)]
        )["v"]
        self.wait(ForkState.IN)

    def open(self, address: str, *, site: str, volume: str) -> Flaky:
        secondary = open_marked_secondary(address, site=site, volume=volume)
        return Flaky(secondary, lambda: self.is_broken)

    def on_state_change(self, change: ForkStateChange) -> None:
        self.states.append(change.state)

    def wait(self, state: ForkState, *, writing: bool = False) -> None:
        """Wait until the secondary is in this state. writing: write meanwhile."""
        self.states.clear()
        until = time.monotonic() + DEADLINE_S
        while state not in self.states:
            assert time.monotonic() < until, f"the secondary isn't {state}: {self.states}"
            self.run.check()
            if writing:
                self.write(1)
            self.host.pause(0.01)

    def write(self, count: int) -> None:
        for _ in range(count):
            block, length = (
                self.random.randrange(BLOCKS - 4),
                self.random.choice((100, BLOCK, 3 * BLOCK)),
            )
            offset = block * BLOCK + self.random.randrange(2) * 512
            match self.random.random():
                case value if value < 0.05:
                    self.volume.zero(length, offset)
                case value if value < 0.1:
                    self.volume.trim(length, offset)
                case _:
                    self.volume.pwrite(os.urandom(length), offset)
            if self.random.random() < 0.05:
                self.volume.flush()

    def finish(self) -> dict[str, int]:
        """Close the host, and return what copied() returns."""
        self.host.close()
        return copied(self.run, self.host.last_positions)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_is_forked_is_not_copied(world: Run, mode: str, stack: ExitStack) -> None:
    forked = World(world, mode, stack)
    for _ in range(10):
        forked.write(50)
        forked.host.pause(0.02)
    blocks_copied = forked.finish()
    assert blocks_copied["site-a"] == 0
    assert blocks_copied["site-b"] > 100


def test_a_secondary_that_fails_and_comes_back_while_writes_go_on(
    world: Run, stack: ExitStack
) -> None:
    forked = World(world, "sync", stack)
    forked.write(200)
    forked.host.pause(0.02)
    for _ in range(2):
        forked.is_broken = True
        forked.write(50)
        assert ForkState.OUT in forked.states or ForkState.HUNG in forked.states
        forked.is_broken = False
        forked.wait(ForkState.IN, writing=True)
        forked.write(100)
    blocks_copied = forked.finish()
    assert 0 < blocks_copied["site-a"] < blocks_copied["site-b"]


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed")
@pytest.mark.parametrize("through", ["filter", "plugin"])
def test_what_an_nbd_client_writes_is_forked(world: Run, stack: ExitStack, through: str) -> None:
    """Write through `mirrorlog host serve`, which reports when the secondary is in the fork."""
    _, device = start_world(world, stack)
    device.close()
    secondary, source = world.folder / "site-a" / "v.img", world.folder / "source.img"
    source.write_bytes(os.urandom(SIZE))
    arguments = [
        "host",
        "serve",
        "v",
        "--socket",
        str(world.folder / "v.sock"),
        "--fork",
        f"site-a={secondary.as_uri()}",
        "--through",
        through,
    ]
    settings = world.settings.model_copy(update=PATIENT)
    environment = {**inherited_environment(), **settings.as_environment()}
    host = ChildProcess(
        "host",
        [*arguments, "--fork-mode", "sync"],
        environment,
        world.folder / "host.log",
        world.messages,
    )
    world.parts["host"] = host
    host.start()
    uri = ""

    def is_in(message: ChildMessage) -> bool:
        nonlocal uri
        if message.message_type == "ready" and message.part == "host":
            uri = str(message.fields["uri"])
            assert message.fields["through"] == through
        return message.message_type == "fork" and message.fields["state"] == "IN"

    message = world.wait_for(is_in, DEADLINE_S)
    assert (message["volume"], message["site"]) == ("v", "site-a")
    # A site that copies while the host writes may copy a block twice; this one copies afterwards.
    suspend(world.parts["site-b"].pid)
    subprocess.run(["nbdcopy", "--flush", str(source), uri], check=True, timeout=DEADLINE_S)
    assert (
        secondary.read_bytes() == source.read_bytes()
    )  # in this mode, all secondaries have what is acknowledged
    host.signal(signal.SIGTERM)
    last_positions = wait_for_result(world)["last_positions"]
    # Nor may it begin before the log is whole: the second cycle would copy again what a roll-up
    # joins with the blocks of the first.
    Outcome(world).wait_consistent("site-a", last_positions)
    world.parts["site-b"].signal(signal.SIGCONT)
    blocks_copied = copied(world, last_positions)
    assert (blocks_copied["site-a"], blocks_copied["site-b"]) == (0, BLOCKS)
    assert "site-a is in the fork" in host.log_file.read_text()


def test_a_program_forks_through_the_python_api(run: Run) -> None:
    with ExitStack() as stack:
        described, device = start_world(run, stack)
        device.close()
        secondary = run.folder / "site-a" / "v.img"
        settings = run.settings.model_copy(update=PATIENT)

        def is_forked(volume: TrackedVolume, block: int) -> bool:
            data = os.urandom(BLOCK)
            volume.pwrite(data, block * BLOCK)
            if not secondary.exists():  # its site creates it
                return False
            # The secondary has the block before its site has read of it, unless the site reads now.
            with secondary.open("rb") as file:
                file.seek(block * BLOCK)
                return file.read(BLOCK) == data

        until = time.monotonic() + DEADLINE_S
        with open_volume(
            "v", settings, forks=[f"site-a={secondary.as_uri()}"], fork_mode="sync"
        ) as volume:
            while not all(is_forked(volume, block) for block in range(50)):
                assert time.monotonic() < until
            assert all(is_forked(volume, block) for block in range(50, 300))
        admin = KafkaAdmin(run.settings.kafka_client())
        stack.callback(admin.close)
        end = admin.end_position(run.settings.topics.commands, described.partition)
        assert copied(run, {"v": end - 1})["site-b"] >= 300
