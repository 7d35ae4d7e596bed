"""A site whose secondary can't be made, whose state can't be read, or whose node is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from notation import GENERATION, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

SETTINGS = Settings()
TOPICS = SETTINGS.topics


class Secondaries(MemorySecondaries):
    """Secondaries of which none can be created while `is_full`."""

    is_full = False

    def create_all(self, volumes: Sequence[Volume]) -> None:
        if self.is_full and volumes:
            raise DeviceFailed("creating failed: No space left on device", where="v.img")
        super().create_all(volumes)


class States(MemorySecondaryStates):
    """States of which none can be read while `is_broken`."""

    is_broken = False

    def load(self, volume: str) -> SecondaryState | None:
        if self.is_broken:
            raise DeviceFailed("reading the state failed: Input/output error", where=volume)
        return super().load(volume)


@dataclass
class World:
    """A site with the volume v, which no host writes to."""

    secondaries: Secondaries = field(
        default_factory=lambda: Secondaries({}, {"v": MemoryDevice(volume().size_bytes)})
    )
    states: States = field(default_factory=States)

    def start(self) -> None:
        self.broker, self.clock = MemoryBroker(), ManualClock(look_s=0.3)
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        publisher = self.broker.publisher()
        publish_volume(publisher, TOPICS, volume())
        publisher.flush(0)
        ports = SitePorts(
            log=LogReader(self.broker.reader(), self.broker, TOPICS.changelog, site="a"),
            catalog=Catalog(self.broker.reader(), self.broker, TOPICS, self.clock),
            admin=self.broker,
            publisher=publisher,
            states=self.states,
            secondaries=self.secondaries,
            open_reader=self.broker.reader,
            clock=self.clock,
            ask_end=lambda partition: self.broker.end_position(TOPICS.commands, partition),
        )
        self.site = Site("a", ports, SETTINGS)

    def run(self, rounds: int = 60) -> None:
        """Run rounds of the site, over several of its retries."""
        began_s = self.clock.now_s
        for _ in range(rounds):
            self.site.run_once(0)
        assert self.clock.now_s - began_s > 15

    def complete_through(self, position: int) -> None:
        """Write a watermark, as the node does."""
        watermark = Watermark(partition=0, through=position, at_us=0)
        self.broker.append(TOPICS.changelog, 0, watermark_key(0), encode(watermark))

    def reports(self) -> list[SiteProgress]:
        messages = self.broker.messages(TOPICS.progress)
        return [decode(message.value or b"", SiteProgress) for message in messages]


@pytest.fixture
def world() -> World:
    return World()


def test_the_reason_stays_while_a_secondary_cannot_be_created(world: World) -> None:
    world.secondaries.is_full = True
    world.start()
    world.run()
    stopped = {(report.state, report.reason) for report in world.reports()}
    (reason,) = (reason for state, reason in stopped if state is SiteState.STOPPED)
    assert reason is not None and reason.startswith("creating failed: No space left on device")
    world.secondaries.is_full = False
    world.run()
    assert world.reports()[-1].state is SiteState.CONSISTENT


def test_a_state_that_cannot_be_read_is_read_later_and_is_not_lost(world: World) -> None:
    world.start()
    world.run()
    saved = world.states.load("v")
    assert saved is not None and saved.generation == GENERATION

    world.states.is_broken = True
    world.start()
    world.run()
    reasons = {report.reason for report in world.reports()}
    assert len(reasons) == 1 and "reading the state failed" in str(reasons)
    world.states.is_broken = False
    world.run()
    secondary = world.site.secondaries["v"]
    assert secondary.state is SiteState.CONSISTENT
    assert secondary.saved is not None
    assert secondary.saved.identity == saved.identity
    assert secondary.blocks_copied == 0


def test_without_a_node_nobody_knows_how_far_a_site_is_behind(world: World) -> None:
    world.start()
    world.broker.append(TOPICS.commands, 0, b"v", b"a command")
    world.complete_through(0)
    world.run(200)
    report = world.reports()[-1]
    assert (report.state, report.behind_blocks, report.lag_s) == (SiteState.CONSISTENT, 0, 0.0)

    world.broker.append(TOPICS.commands, 0, b"v", b"another command")
    world.run(200)
    report = world.reports()[-1]
    assert (report.state, report.consistent_position) == (SiteState.CONSISTENT, 0)
    assert (report.behind_blocks, report.behind_bytes, report.lag_s) == (None, None, None)
    assert report.reason == "the log ends at 0, and commands through 1 wait for the node"

    world.complete_through(1)
    world.run(200)
    report = world.reports()[-1]
    assert (report.behind_blocks, report.lag_s, report.reason) == (0, 0.0, None)
