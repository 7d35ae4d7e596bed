"""A volume that grows past a power of two forgets nothing of what lies on either side of it.

VMware's changed block tracking returned wrong blocks of disks that had been grown past such a size.
"""

from __future__ import annotations

from random import Random

import pytest
from notation import command, volume

from mirrorlog.codec.events import encode
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.domain import extraction
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.domain.volume_states import grown_extents
from mirrorlog.domain.volumes import MAX_BLOCKS, Volume
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import load_settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.node import NodeModel

BLOCK = 4096
SETTINGS = load_settings(None, {"node_tiers_s": (2, 6, 18)})


class GrowingVolume:
    """A volume on a primary that is longer, with a node and a site. The primary's rest is no zeros.

    Nobody knows what a grown region held before.
    """

    def __init__(self, size_bytes: int, most_bytes: int) -> None:
        self.broker, self.topics = MemoryBroker(), SETTINGS.topics
        self.broker.create(self.topics.specs(single_copy=True), 1)
        publisher = self.broker.publisher()
        publish_volume(publisher, self.topics, volume(size_bytes=size_bytes))
        publisher.flush(0)
        self.primary = MemoryDevice(most_bytes)
        self.primary.pwrite(size_bytes, b"old" * ((most_bytes - size_bytes) // 3))
        self.secondary = MemoryDevice(size_bytes)
        self.sequence = self.version = 0
        self.send(CommandKind.SESSION_OPEN)
        self.node = NodeModel(self.broker, SETTINGS, Fuse(), Random(1))
        clock = ManualClock(look_s=0.3)
        ports = SitePorts(
            log=LogReader(self.broker.reader(), self.broker, self.topics.changelog),
            catalog=Catalog(self.broker.reader(), self.broker, self.topics, clock),
            admin=self.broker,
            publisher=publisher,
            states=MemorySecondaryStates(),
            secondaries=MemorySecondaries({"v": self.secondary}, {"v": self.primary}),
            open_reader=self.broker.reader,
            clock=clock,
        )
        self.site = Site("a", ports, SETTINGS)

    def send(self, kind: CommandKind, extents: str = "", **more: object) -> None:
        """Publish a command of the host, or one of an operator if it has a size."""
        end = self.broker.end_position(self.topics.commands, 0)
        event = command(
            extents,
            kind=kind,
            sequence=-1 if "size_bytes" in more else self.sequence,
            acknowledged_position=end - 1 if end else None,
            **more,
        )
        self.sequence += "size_bytes" not in more
        self.broker.append(self.topics.commands, 0, b"v", encode(event))

    def write(self, offset: int) -> None:
        """Write a few bytes, and publish that."""
        self.version += 1
        data = self.version.to_bytes(8, "big")
        self.primary.pwrite(offset, data)
        self.send(CommandKind.WRITES, f"{offset}+{len(data)}")

    def resize(self, size_bytes: int) -> None:
        """Let an operator make the volume longer."""
        self.send(CommandKind.RESIZE, size_bytes=size_bytes)
        self.follow()

    def follow(self) -> Secondary:
        """Let node and site catch up."""
        for _ in range(3):
            self.send(CommandKind.HEARTBEAT)
            while self.node.fold(10):
                self.node.commit()
            for _ in range(3):
                self.site.run_once(0)
        return self.site.secondaries["v"]

    def check(self, size_bytes: int, first: int) -> None:
        """Check that the secondary has this size, and equals the primary from `first` on."""
        secondary = self.follow()
        assert secondary.state is SiteState.CONSISTENT
        assert secondary.saved is not None and secondary.saved.rung is Rung.CHANGED
        device = self.secondary.reopen()
        assert device.size_bytes == size_bytes
        length = size_bytes - first
        assert device.pread(offset=first, length=length) == self.primary.pread(
            offset=first, length=length
        )


def grow_past(power: int) -> None:
    """Grow a volume from a little below 2^power blocks to that, and to a little more."""
    edge = BLOCK << power
    small, large = edge - BLOCK - 512, edge + BLOCK - 512
    first = max(0, edge - 4 * BLOCK)
    grown = GrowingVolume(small, large)
    grown.write(small - 8)
    grown.write(first)
    grown.check(small, first)
    for size_bytes in (edge, large):
        grown.resize(size_bytes)
        grown.check(size_bytes, first)
        for offset in (first, small - 8, small, edge - 8, edge, large - 8):
            if offset < size_bytes:
                grown.write(offset)
        grown.check(size_bytes, first)


def test_a_volume_grows_past_each_power_of_two_of_its_blocks() -> None:
    for power in range(1, MAX_BLOCKS.bit_length() - 1):
        grow_past(power)


def test_a_volume_does_not_grow_past_the_last_one() -> None:
    most = MAX_BLOCKS * BLOCK
    grown = GrowingVolume(most - BLOCK, most + BLOCK)
    grown.resize(most)
    grown.resize(most + BLOCK)
    grown.write(most - 8)
    grown.check(most, most - 4 * BLOCK)


@pytest.mark.parametrize("power", [1, 15, 16, 25, 31, 32, 37])
def test_a_log_that_lacks_what_lies_below_the_edge_is_found_out(
    power: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RESIZE that names the new region from the next power of two on, as VMware's did."""

    def from_the_edge(volume: Volume, event: TrackingCommand, position: int) -> list[Extent]:
        edge = BLOCK << power
        return [
            Extent(
                max(edge, grown_extent.offset), grown_extent.end - max(edge, grown_extent.offset)
            )
            for grown_extent in grown_extents(volume, event, position)
            if grown_extent.end > edge
        ]

    monkeypatch.setattr(extraction, "grown_extents", from_the_edge)
    with pytest.raises(AssertionError):
        grow_past(power)
