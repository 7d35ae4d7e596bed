"""The copies, the hosts and the sites of FailoverWorld."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final
from uuid import UUID

from mirrorlog.codec.events import encode
from mirrorlog.consumers.failover.claims import SecondaryClaim, claim_of
from mirrorlog.consumers.resync.secondaries import FoundSecondary
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import load_settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.simulation.world.checked_log import CheckedLog
from mirrorlog.simulation.world.crashes import Crash, Fuse
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS, SIZE_BYTES, content
from mirrorlog.tracking_log.keys import missed_log
from mirrorlog.tracking_log.site_log import SiteLog

NAME: Final = "v"
COPIES: Final = ("a", "b", "c")


@dataclass(slots=True)
class Term:
    """The time of a copy as the primary.

    began: the position of the promotion. base: what the copy held then, by block.
    writes: (position, block, version) of what its hosts published.
    """

    copy: str
    generation: str
    began: int
    base: dict[int, int]
    former: Term | None
    parted: int | None
    writes: list[tuple[int, int, int]] = field(default_factory=list)

    def versions_at(self, position: int) -> dict[int, int]:
        """Return what the volume held as of a position, by block."""
        if position < self.began and self.former is not None:
            return self.former.versions_at(position)
        held = dict(self.base)
        held.update({block: version for at, block, version in self.writes if at <= position})
        return held


class CopiedVolume:
    """One volume with three copies, and what its hosts and sites share.

    copies: the devices. terms: by generation. unreachable: copies that no site can read.
    primary_marks: copies that are marked as a primary. volume: as it was described first.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.settings = load_settings(None, {"site_copy_bytes": 4096, "node_tiers_s": (2, 6, 18)})
        self.broker = MemoryBroker()
        self.broker.create(self.settings.topics.specs(single_copy=True), 1)
        self._checked_log = CheckedLog(self.broker, self.settings.topics.changelog)
        self.copies = {copy: MemoryDevice(SIZE_BYTES) for copy in COPIES}
        self.unreachable: set[str] = set()
        self.primary_marks = {"a"}
        self.version = 0
        self.volume = Volume(
            volume=NAME,
            generation=self.draw_id(),
            size_bytes=SIZE_BYTES,
            block_size=BLOCK_BYTES,
            partition=0,
            origin_position=-1,
            initially_zeroed=True,
            primary="memory://a",
            primary_site="a",
        )
        self.terms: dict[str, Term] = {}

    def described(self) -> Volume:
        """Return the newest description."""
        catalog = Catalog(self.broker.reader(), self.broker, self.settings.topics, ManualClock())
        catalog.refresh()
        return catalog[NAME]

    def read_log(self, site: str | None = None) -> LogReader:
        """Read the whole changelog; return the reader. site: with what this site has missed."""
        return self._checked_log.read(site)

    def append(self, command: TrackingCommand) -> int:
        """Publish a command; return its position."""
        return self.broker.append(self.settings.topics.commands, 0, NAME.encode(), encode(command))

    def draw_id(self) -> str:
        """Return a new UUID."""
        return str(UUID(int=self.random.getrandbits(128)))

    def held(self, copy: str) -> dict[int, int]:
        """Return the version of each block that a copy holds, of those that were ever written."""
        device = self.copies[copy].reopen(writable=False)
        data = bytes(device.pread(offset=0, length=SIZE_BYTES))
        versions = {
            block: int.from_bytes(data[block * BLOCK_BYTES :][:8], "big") for block in range(BLOCKS)
        }
        return {block: version for block, version in versions.items() if version}


class Writer:
    """A host on one copy. It knows the volume as it was described when it opened it.

    batch: (block, version) that is written and not published. is_fenced: it has read that its copy
    isn't the primary any more.
    """

    def __init__(self, world: CopiedVolume, copy: str, session: str) -> None:
        self.copy, self.session, self._world = copy, session, world
        self.volume = world.described()
        self.batch: list[tuple[int, int]] = []
        self.is_fenced = False
        self._sequence = 0
        self._acknowledged: int | None = None
        self.send(CommandKind.SESSION_OPEN)

    def write(self, block: int) -> None:
        """Write a block of the copy, unless the host is fenced."""
        if not self.is_fenced:
            self._world.version += 1
            device = self._world.copies[self.copy].reopen()
            device.pwrite(block * BLOCK_BYTES, content(self._world.version))
            device.flush()
            self.batch.append((block, self._world.version))

    def publish(self) -> None:
        """Publish what is written."""
        batch, self.batch = self.batch, []
        extents = [Extent(block * BLOCK_BYTES, BLOCK_BYTES) for block, _ in batch]
        position = self.send(CommandKind.WRITES, extents)
        term = self._world.terms[self.volume.generation]
        assert term.copy == self.copy, "two copies are written under one generation"
        term.writes += [(position, block, version) for block, version in batch]

    def look(self) -> None:
        """Read the description, and keep off the copy if another one was promoted."""
        newest = self._world.described()
        is_other = newest.primary_id not in (None, self.volume.primary_id)
        if newest.promotion_ending(self.volume.generation) is not None or is_other:
            self.is_fenced = True
        elif newest.generation != self.volume.generation:
            self.volume = replace(newest, primary_id=self.volume.primary_id)

    def end(self) -> None:
        """Publish everything, and close the session."""
        self.publish()
        self.send(CommandKind.SESSION_CLOSE)

    def crash_and_recover(self) -> None:
        """Die with an open batch. What it named is published as dirty, and the session closed."""
        extents = [Extent(block * BLOCK_BYTES, BLOCK_BYTES) for block, _ in self.batch]
        position = self.send(CommandKind.MARK_DIRTY, extents, sequence=-1)
        term = self._world.terms[self.volume.generation]
        term.writes += [(position, block, version) for block, version in self.batch]
        self.batch = []
        self.send(CommandKind.SESSION_CLOSE, sequence=-1)

    def send(
        self,
        kind: CommandKind,
        extents: list[Extent] | None = None,
        sequence: int | None = None,
    ) -> int:
        """Publish one command; return its position."""
        command = TrackingCommand(
            volume=NAME,
            generation=self.volume.generation,
            host=self.copy,
            session=self.session,
            sequence=self._sequence if sequence is None else sequence,
            kind=kind,
            extents=ExtentColumns.of(extents or []),
            first_at_us=1,
            last_at_us=2,
            acknowledged_position=self._acknowledged,
        )
        self._sequence += sequence is None
        self._acknowledged = self._world.append(command)
        return self._acknowledged


class CopySecondaries(MemorySecondaries):
    """The secondary of one site, and the primaries by the addresses of descriptions."""

    def __init__(self, world: CopiedVolume, copy: str) -> None:
        super().__init__({NAME: world.copies[copy]}, {})
        self._world, self._copy = world, copy

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there: it may be marked as a primary."""
        present = super().find(volume)
        is_marked = self._copy in self._world.primary_marks
        return replace(present, primary_of=NAME if is_marked else None)

    def open_primary(self, volume: Volume) -> MemoryDevice:
        """Open the copy at the address. DeviceFailed if it burned down."""
        copy = volume.primary.removeprefix("memory://")
        if copy in self._world.unreachable:
            raise DeviceFailed("the primary can't be reached", where=volume.primary)
        return self._world.copies[copy].reopen(writable=False)


class CopySite:
    """The site of one copy: the real one."""

    def __init__(self, world: CopiedVolume, copy: str) -> None:
        self.name, self._world = copy, world
        self.states = MemorySecondaryStates()
        self.secondaries = CopySecondaries(world, copy)
        self.fuse = Fuse()
        self.states.hook = self.fuse.step
        self.secondaries.hook = self.fuse.step
        self.pauses = Pauses()
        self.start()

    def start(self) -> None:
        """Start the site again, as after a crash."""
        world, clock = self._world, ManualClock(look_s=0.3)
        topics = world.settings.topics
        self.log = LogReader(world.broker.reader(), world.broker, topics.changelog, site=self.name)
        ports = SitePorts(
            log=self.log,
            catalog=Catalog(world.broker.reader(), world.broker, topics, clock),
            admin=world.broker,
            publisher=world.broker.publisher(),
            states=self.states,
            secondaries=self.secondaries,
            open_reader=world.broker.reader,
            clock=clock,
            draw_id=world.draw_id,
            pauses=lambda: self.pauses,
        )
        self.site = Site(self.name, ports, world.settings)

    def run(self, random: Random | None = None, *, crash_at: int | None = None) -> None:
        """Run one round. It crashes at a step that `random` draws, or at step `crash_at`."""
        if crash_at is not None:
            self.fuse.light_at(crash_at)
        elif random is not None:
            self.fuse.light(random)
        try:
            self.site.run_once(0)
        except Crash:
            if self.name not in self._world.primary_marks:
                self.secondaries.crash(keep=random)
            self.states.crash(keep=random)
            self.start()
        self.fuse.put_out()

    def claim(self, volume: Volume) -> SecondaryClaim:
        """Return what the saved state is worth, as a promoter asks for it."""
        log = self._world.read_log(self.name)
        logs = SiteLog(log.logs[NAME], log.logs[missed_log(NAME, self.name)], self.name)
        saved, mark = self.states.load(NAME), self.secondaries.marks.get(NAME)
        doubt = None
        if saved is not None and saved.identity is not None:
            is_same = mark is not None and (mark.secondary_id, mark.epoch) == (
                saved.identity.secondary_id,
                saved.identity.epoch,
            )
            doubt = None if is_same else "the mark isn't that of the state"
        return claim_of(saved, volume, logs, doubt=doubt)
