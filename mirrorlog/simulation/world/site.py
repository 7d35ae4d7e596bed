"""The world's site: the real site, on devices and a state store in memory."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Final
from uuid import UUID

import numpy as np

from mirrorlog.consumers.journal_recovery import RecoveryPorts, recover_journals
from mirrorlog.consumers.name_fence import Fellows, FencePorts, NameFence
from mirrorlog.consumers.resync.command_ends import MirroredCommandEnds
from mirrorlog.consumers.resync.primary_comparison import PrimaryComparison
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.ports.streams import Message, Publisher
from mirrorlog.ports.task_runner import OneAtATime
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.mirrored_rows import MirroredRows
from mirrorlog.reading.source_questions import SourceQuestions, question_publisher
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_journals import MemoryJournals
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
    clock: of the running site. states: the store. secondaries: the devices and their marks.
    seen_primaries: by volume, the device that the site finds at the address of the primary, if it
        isn't the primary.
    fuse: kills the site.
    recovers_first: at its start it applies its sealed journals before it asks for Kafka.
    look_at_pauses: returns what an operator has paused.
    digests: asks for digests of primaries, from the next start on.
    held_for_drills: the volumes whose secondaries drills hold.
    """

    name: Final = SITE

    def __init__(
        self,
        broker: MemoryBroker,
        host: HostModel,
        settings: Settings,
        fuse: Fuse,
        random: Random,
        *,
        mirror_of: str | None = None,
    ) -> None:
        """mirror_of: the cluster of which `broker` holds a mirror; None if it is that cluster."""
        self._mirror_of = mirror_of
        self._broker, self._host, self._settings, self._random = broker, host, settings, random
        self.fuse: Final = fuse
        devices = {name: MemoryDevice(SIZE_BYTES) for name in host.volumes}
        self.volumes: Final = tuple(host.volumes)
        self.seen_primaries: Final[dict[str, MemoryDevice]] = {}
        self.secondaries = MemorySecondaries(
            devices, ChainMap(self.seen_primaries, dict(host.primaries))
        )
        self.secondaries.hook = fuse.step
        for device in devices.values():
            device.hook = fuse.step
        self.states = MemorySecondaryStates()
        self.states.hook = fuse.step
        self.journals = MemoryJournals()
        self.journals.hook = fuse.step
        self._publisher = broker.publisher()
        self._folder = UUID(int=7)
        self.look_at_pauses: Callable[[], Pauses] = Pauses
        self.digests: PrimaryComparison | None = None
        self.held_for_drills: frozenset[str] = frozenset()
        self._ended_histories: set[str | None] = set()
        self.recovers_first = False
        self.start()

    def connect(self, broker: MemoryBroker) -> None:
        """Start the site again. From now on it reaches its cluster in this way (other_way)."""
        self._broker, self._publisher = broker, broker.publisher()
        self.start()

    def start(self, folder: UUID | None = None) -> None:
        """Start the site again, as after a crash. folder: the id of another state folder."""
        if self.recovers_first:
            self.recover_journals()
        topics = self._settings.topics
        self.clock = clock = ManualClock(look_s=_CLOCK_STEP_S)
        self._folder = folder or self._folder
        fence = self._fence(self._folder, clock)
        fence.take()
        self.reader = SlowReader(self._broker, self._random)
        source = None if self._mirror_of is None else NamedCluster(self._mirror_of)
        questions = None if source is None else self._new_questions(clock)
        self.log = LogReader(
            self.reader,
            self._broker,
            topics.changelog,
            site=SITE,
            mirrored=None if questions is None else MirroredRows(questions),
            cluster=source,
        )
        ports = replace(
            self._ports(self.log, self._publisher, fence),
            catalog=Catalog(self._broker.reader(), self._broker, topics, clock, cluster=source),
            ends=None if questions is None else MirroredCommandEnds(questions),
        )
        self.site = Site(SITE, ports, self._settings)

    def _ports(self, log: LogReader, publisher: Publisher, fence: NameFence) -> SitePorts:
        """Return the ports of a process that isn't on a mirror."""
        topics = self._settings.topics
        return SitePorts(
            log=log,
            catalog=Catalog(self._broker.reader(), self._broker, topics, self.clock),
            admin=self._broker,
            publisher=publisher,
            states=self.states,
            secondaries=self.secondaries,
            open_reader=self._broker.reader,
            clock=self.clock,
            draw_id=self._draw_id,
            keep_name=fence.keep,
            journals=self.journals,
            pauses=self._look_at_pauses,
            digests=self.digests,
            held_for_drills=lambda: self.held_for_drills,
        )

    def _new_questions(self, clock: ManualClock) -> SourceQuestions:
        publish = question_publisher(self._publisher, self._settings.topics.questions)
        return SourceQuestions(SITE, self._draw_id(), publish, clock)

    def _look_at_pauses(self) -> Pauses:
        return self.look_at_pauses()

    def _draw_id(self) -> str:
        return str(UUID(int=self._random.getrandbits(128)))

    def _fence(
        self, folder: UUID, clock: ManualClock, fellows: Fellows | None = None, *, pid: int = 1
    ) -> NameFence:
        lease = SiteLease(
            site=SITE,
            run=self._draw_id(),
            folder=str(folder),
            machine=str(folder),
            term=1,
            host="machine",
            pid=pid,
            started_at_us=0,
        )
        ports = FencePorts(
            reader=self._broker.reader(),
            admin=self._broker,
            publisher=self._broker.publisher(),
            clock=clock,
            topic=self._settings.topics.progress,
            patience_s=1000,
        )
        return NameFence(lease, ports, fellows)

    def secondary(self, name: str) -> MemoryDevice:
        """Return the secondary of a volume, opened once more."""
        return self.secondaries.devices[name].reopen()

    def recover_journals(self) -> dict[str, int]:
        """Apply the sealed journals as a site does before it asks for Kafka."""
        ports = RecoveryPorts(
            journals=self.journals,
            states=self.states,
            secondaries=self.secondaries,
            is_left=lambda name: self._look_at_pauses().covers(name),
            clock=ManualClock(look_s=_CLOCK_STEP_S),
            task_runner=OneAtATime(),
            draw_id=self._draw_id,
        )
        return recover_journals(SITE, ports)

    def crash(self) -> None:
        """Lose power, and start again."""
        self.lose_power()
        self.start()

    def lose_power(self) -> None:
        """Lose what isn't durable. The site does nothing more before start()."""
        self.secondaries.crash(keep=self._random)
        self.states.crash(keep=self._random)
        self.journals.crash(keep=self._random)

    def is_consistent(self) -> bool:
        """Return whether the site calls all its secondaries consistent, and lacks nothing."""
        return all(
            secondary.state is SiteState.CONSISTENT and secondary.staged is None
            for secondary in self.site.secondaries.values()
        )

    def secondary_equals_primary(self, name: str) -> bool:
        """Return whether the secondary holds the primary's bytes."""
        primary = self._host.primaries[name].pread(offset=0, length=SIZE_BYTES)
        return self.secondary(name).pread(offset=0, length=SIZE_BYTES) == primary

    def check_consistency(self) -> None:
        """Check that what is saved as consistent equals the primary as of that position."""
        for name in self._host.volumes:
            self._check_claim(name, self.states.load(name))

    def check_claims(self) -> None:
        """Check what the running site claims of the secondaries that it has met."""
        for name, secondary in self.site.secondaries.items():
            if secondary.is_met:
                self._check_claim(name, secondary.saved)
            else:
                assert secondary.state is not SiteState.CONSISTENT

    def note_ended(self, history_id: str | None) -> None:
        """Note that a history ended. A claim that names it is about its positions."""
        self._ended_histories.add(history_id)

    def check_reports(self) -> None:
        """Check what the running site claims, and what it reports, of secondaries it has met."""
        for name, secondary in self.site.secondaries.items():
            report = self.site.progress(secondary)
            if secondary.saved is None or report.consistent_position is None:
                assert report.state is not SiteState.CONSISTENT
                continue
            self._check_claim(name, secondary.saved)
            if report.state is SiteState.CONSISTENT:
                assert report.generation == secondary.saved.generation
                self._check_claim(
                    name,
                    replace(
                        secondary.saved,
                        applied_position=report.applied_position,
                        consistent_position=report.consistent_position,
                    ),
                )

    def _check_claim(self, name: str, saved: SecondaryState | None) -> None:
        if saved is None or saved.consistent_position is None:
            return
        position, device = saved.consistent_position, self.secondary(name)
        possible = [self._host.versions_at(name, position)]
        if saved.history_id in self._ended_histories:
            possible += self._host.versions_in_ended(name, position)
        content = device.pread(offset=0, length=SIZE_BYTES)
        held = np.frombuffer(content, ">u8")[:: BLOCK_BYTES // 8].tolist()
        differing = [
            [block for block in range(BLOCKS) if held[block] != versions.get(block, 0)]
            for versions in possible
        ]
        assert [] in differing, f"{name} blocks {differing}, consistent at {position}"
