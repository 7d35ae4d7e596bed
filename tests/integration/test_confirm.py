"""With `host_confirm = "recorded"`, on a real broker, nothing is lost while the node is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from deadlines import DEADLINE_S

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.cli.demo.proof import dirty_blocks_of_log
from mirrorlog.cli.demo.run import Run
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import new_volume, publish_volume

pytestmark = pytest.mark.integration

SIZE, REGION = 1 << 20, 1 << 16


class World:
    """One volume, and its host in this process."""

    def __init__(self, run: Run, stack: ExitStack) -> None:
        self.run = run
        self.settings = run.settings.model_copy(
            update={
                "host_confirm": "recorded",
                "region_bytes": REGION,
                "hot_regions": 2,
                "host_when_full": "fail",
            }
        )
        client = self.settings.kafka_client()
        self.stack, self.publisher, self.admin = stack, KafkaPublisher(client), KafkaAdmin(client)
        stack.callback(self.publisher.close)
        stack.callback(self.admin.close)
        topic = self.settings.topics.commands
        ends = [
            self.admin.end_position(topic, partition)
            for partition in range(self.admin.partitions(topic))
        ]
        path = run.folder / "v.img"
        self.device = stack.enter_context(FileDevice.create(path, SIZE))
        self.volume: Volume = new_volume(
            "v", size_bytes=SIZE, block_size=4096, primary=path.as_uri(), ends=ends, now_us=1
        )
        publish_volume(self.publisher, self.settings.topics, self.volume)
        self.publisher.flush(DEADLINE_S)
        self.folder = DiskFolder(run.folder / "host")

    def host(self, deadline_s: float) -> Host:
        reader = KafkaReader(self.settings.kafka_client())
        self.stack.callback(reader.close)
        statuses = StatusPorts(reader, self.admin)
        ports = HostPorts(self.folder, self.publisher, SystemClock(), open_device, statuses)
        return Host("h", ports, self.settings, {"v": self.volume}, deadline_s=deadline_s)

    def hot(self) -> set[int]:
        return set(read_previous_log(self.folder).regions.get("v", ()))


@pytest.fixture
def world(run: Run, tmp_path: Path) -> Iterator[World]:
    run.folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        yield World(run, stack)


def write(volume: TrackedVolume, *regions: int) -> None:
    for region in regions:
        volume.pwrite(b"x" * 4096, region * REGION)


def test_a_node_that_stops_and_starts_again_loses_nothing(world: World, run: Run) -> None:
    run.start_node()
    run.wait_ready("node")
    host = world.host(deadline_s=2.0)
    volume = host.open(world.volume, world.device, newly_created=True)
    write(volume, 0, 1)
    host.drain()
    node = run.parts["node"]
    node.kill()
    write(volume, 1, 0)
    with pytest.raises(KafkaFailed, match="the node hasn't recorded them within 2 s"):
        write(volume, 2)
    assert world.hot() == {0, 1}
    node.start()
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            write(volume, 2)
            break
        except KafkaFailed:
            assert time.monotonic() < until
    assert 2 in world.hot()
    host.drain()
    host.close()
    assert read_previous_log(world.folder).volumes == frozenset()
    dirty = dirty_blocks_of_log(
        world.settings, {"v": world.volume}, host.last_positions, DEADLINE_S
    )
    assert dirty == {"v": 3}


def test_commands_that_were_published_but_not_recorded_are_published_again(
    world: World, run: Run
) -> None:
    host = world.host(deadline_s=0.5)
    volume = host.open(world.volume, world.device, newly_created=True)
    write(volume, 3)
    with pytest.raises(KafkaFailed, match="Is a node running"):
        host.close()
    assert world.hot() == {3}
    run.start_node()
    run.wait_ready("node")
    again = world.host(deadline_s=DEADLINE_S)
    assert world.hot() == set()
    dirty = dirty_blocks_of_log(
        world.settings, {"v": world.volume}, again.last_positions, DEADLINE_S
    )
    assert dirty == {"v": REGION // 4096}
    again.close()
