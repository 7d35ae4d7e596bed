"""The world's site: the real site, on devices and a state store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final
from uuid import UUID

from mirrorlog.consumers.resync.site import Site, SitePorts
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES, HostModel

SITE: Final = "a"
_CLOCK_STEP_S: Final = 0.3


class SlowReader(MemoryReader):
    """Often returns only a few messages at once: compaction gets between them.

    batch_sizes: those from which each poll draws.
    """

    def __init__(self, broker: MemoryBroker, random: Random) -> None:
        super().__init__(broker)
        self._random = random
        self.batch_sizes: tuple[int, ...] = (3, 20, 1000)

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        """Return a few messages, whatever `max_messages` is."""
        del max_messages
        return super().poll(timeout_s, max_messages=self._random.choice(self.batch_sizes))


class SiteModel:
    """One site. A crash takes what its devices and its store hadn't made durable.

    site, log, reader: the running site, its log, and the reader below that.
    states: the store. secondaries: the devices and their marks.
    """

    def __init__(
        self, broker: MemoryBroker, host: HostModel, settings: Settings, fuse: Fuse, random: Random
    ) -> None:
        self._broker, self._host, self._settings, self._random = broker, host, settings, random
        devices = {name: MemoryDevice(SIZE_BYTES) for name in host.volumes}
        self.secondaries = MemorySecondaries(devices, host.primaries)
        self.secondaries.hook = fuse.step
        for device in devices.values():
            device.hook = fuse.step
        self.states = MemorySecondaryStates()
        self.states.hook = fuse.step
        self._publisher = broker.publisher()
        self.start()

    def start(self) -> None:
        """Start the site again, as after a crash."""
        topics, clock = self._settings.topics, ManualClock(look_s=_CLOCK_STEP_S)
        self.reader = SlowReader(self._broker, self._random)
        self.log = LogReader(self.reader, self._broker, topics.changelog, site=SITE)
        ports = SitePorts(
            log=self.log,
            catalog=Catalog(self._broker.reader(), self._broker, topics, clock),
            admin=self._broker,
            publisher=self._publisher,
            states=self.states,
            secondaries=self.secondaries,
            clock=clock,
            draw_id=lambda: str(UUID(int=self._random.getrandbits(128))),
        )
        self.site = Site(SITE, ports, self._settings)

    def secondary(self, name: str) -> MemoryDevice:
        """Return the secondary of a volume, opened once more."""
        return self.secondaries.devices[name].reopen()

    def crash(self) -> None:
        """Lose power, and start again."""
        self.secondaries.crash(keep=self._random)
        self.states.crash(keep=self._random)
        self.start()

    def is_consistent(self) -> bool:
        """Return whether the site calls all its secondaries consistent."""
        return all(
            secondary.state is SiteState.CONSISTENT for secondary in self.site.secondaries.values()
        )

    def secondary_equals_primary(self, name: str) -> bool:
        """Return whether the secondary holds the primary's bytes."""
        primary = self._host.primaries[name].pread(offset=0, length=SIZE_BYTES)
        return self.secondary(name).pread(offset=0, length=SIZE_BYTES) == primary

    def check_consistency(self) -> None:
        """Check that what is saved as consistent equals the primary as of that position."""
        for name in self._host.volumes:
            saved = self.states.load(name)
            if saved is None or saved.consistent_position is None:
                continue
            versions = self._host.versions_at(name, saved.consistent_position)
            device = self.secondary(name)
            for block in range(BLOCKS):
                held = int.from_bytes(device.pread(offset=block * BLOCK_BYTES, length=8), "big")
                assert held == versions.get(block, 0), (
                    f"{name} block {block}, consistent at {saved.consistent_position}"
                )
