"""Backups in a simulated world: chains of images in memory, checked against what hosts wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

from mirrorlog.changed.logs import TopicLogSource
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.sources.followed_log import FollowedLog
from mirrorlog.consumers.backup.sources.live_reads import SourceChanged
from mirrorlog.consumers.backup.sources.primary_source import PrimarySource
from mirrorlog.consumers.backup.sources.registration import Registrar
from mirrorlog.consumers.backup.sources.secondary_source import SecondarySource
from mirrorlog.consumers.backup.sources.source_point import (
    PRIMARY,
    BackupPosition,
    ChosenBlocks,
    SourcePoint,
    choose_blocks,
)
from mirrorlog.consumers.drills.holding import HoldPorts, NotHeld
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed, KafkaFailed, OutOfRetention
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.world.host import BLOCK_BYTES, BLOCKS
from mirrorlog.simulation.world.world import World


@dataclass
class Image:
    """A point that was kept. versions: by block; a block that it lacks is zeros."""

    position: BackupPosition
    versions: dict[int, int]
    chosen: ChosenBlocks


class HoldsInMemory:
    """A double of DrillHolds. It asks the site of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def renew(self, volume: str) -> None:
        self._world.site.held_for_drills |= {volume}

    def end(self, volume: str) -> None:
        self._world.site.held_for_drills -= {volume}


class MemoryPrimaries:
    """PrimaryDevices of a world. What is done to primaries for its site holds for them, too."""

    def __init__(self, secondaries: MemorySecondaries) -> None:
        self._secondaries = secondaries
        self.find = secondaries.find_primary
        self.open = secondaries.open_primary
        self.has_snapshots = secondaries.has_snapshots
        self.take_snapshot = secondaries.take_snapshot


@dataclass
class BackedUpWorld:
    """A world, and points of its volumes. between: called while a point is awaited or read.

    registers: the repository is registered. only_last: each point stands on the last one.
    """

    world: World
    random: Random
    between: Callable[[], object] = lambda: None
    images: dict[str, list[Image]] = field(default_factory=dict)
    registers: bool = False
    only_last: bool = False

    def query(self) -> QueryPorts:
        world, topics = self.world, self.world.settings.topics
        clock = ManualClock(look_s=0.3)
        catalog = Catalog(world.broker.reader(), world.broker, topics, clock)
        logs = TopicLogSource(world.broker.reader, world.broker, topics.changelog, clock)
        return QueryPorts(world.broker.reader, world.broker, catalog, topics, clock, logs)

    def secondary(self, name: str) -> SecondarySource:
        """Return the source of the site's secondary."""
        site = self.world.site

        def open_still() -> BlockDevice:
            return site.secondary(name)

        hold = HoldPorts(
            where=name,
            holds=HoldsInMemory(self.world),  # type: ignore[arg-type]
            open_still=open_still,
            look=lambda _: (site.states.load(name), None),
            clock=ManualClock(look_s=0.3),
            sleep=lambda _: self.between(),
        )
        return SecondarySource(
            volume=self.world.described(name),
            site=site.name,
            hold=hold,
            query=self.query(),
            copy_folder=None,
            wait_s=10,
            force=True,
        )

    def back_up_secondary(self, name: str) -> Image | None:
        """Take a point of the secondary, on one of the earlier points or alone.

        Return None if nobody knows what it holds, if the log isn't complete, or if its machine
        crashes.
        """
        base = self.draw_base(name)
        position = None if base is None else base.position
        try:
            with self.secondary(name).point(position) as point:
                image = self._registered(point, base)
        except (DeviceFailed, KafkaFailed, NotHeld, OutOfRetention):
            return None
        self.images.setdefault(name, []).append(image)
        return image

    def primary(self, name: str) -> PrimarySource:
        """Return the source of the primary. Whatever waits lets the world move on."""
        world = self.world

        @contextmanager
        def follow(volume: Volume) -> Iterator[FollowedLog]:
            reader = LogReader(
                world.broker.reader(), world.broker, world.settings.topics.changelog, [0]
            )
            yield FollowedLog(reader, volume)

        return PrimarySource(
            volume=world.described(name),
            primaries=MemoryPrimaries(world.site.secondaries),
            query=replace(self.query(), checkpoint=self.between),
            follow=follow,
            open_staging=MemoryDevice,
            wait_s=8,
        )

    def back_up_primary(self, name: str) -> Image | None:
        """Take a point of the primary, on one of the earlier points or alone.

        Return None if that failed, as it may: Kafka is behind, a snapshot breaks, the volume is
        another one meanwhile.
        """
        base = self.draw_base(name)
        position = None if base is None else base.position
        try:
            with self.primary(name).point(position) as point:
                image = self.read(point, base)
        except (DeviceFailed, KafkaFailed, OutOfRetention, SourceChanged):
            return None
        self.images.setdefault(name, []).append(image)
        return image

    def registrar(self) -> Registrar:
        world, clock = self.world, ManualClock(now_s=1, look_s=0.3)
        topic = world.settings.topics.progress
        patience = ReadPatience(clock, 30, "reading")
        return Registrar(
            id="55555555-5555-4555-8555-555555555555",
            address="/backups",
            publisher=world.broker.publisher(),
            reader=CompactedTopic(world.broker.reader(), world.broker, topic, patience),
            topic=topic,
            clock=clock,
            host="machine",
        )

    def _registered(self, point: SourcePoint, base: Image | None) -> Image:
        """Return the image of a point, and register what the next one needs."""
        if not self.registers:
            return self.read(point, base)
        registrar = self.registrar()
        known = registrar.registered().get(point.volume.volume)
        begun = registrar.begin(known, None if base is None else base.position, point)
        image = self.read(point, base)
        registrar.finished(begun, point, image.chosen, name="p", written_at_us=1)
        return image

    def draw_base(self, name: str) -> Image | None:
        images = self.images.get(name, [])
        if self.only_last:
            return images[-1] if images else None
        if not images or self.random.random() < 0.1:
            return None
        return images[-1] if self.random.random() < 0.7 else self.random.choice(images)

    def read(self, point: SourcePoint, base: Image | None) -> Image:
        """Return the image of a point. The world moves on while it is read.

        It doesn't while an inconsistent secondary is read, which only its lock keeps still.
        """
        chosen = choose_blocks(point, has_base=base is not None)
        has_base = chosen.rung is Rung.CHANGED
        assert base is not None or not has_base
        versions = dict(base.versions) if has_base and base is not None else {}
        for block in chosen.zeros:
            versions.pop(block, None)
        for block in chosen.data:
            is_still = point.is_consistent or point.source == PRIMARY
            if is_still and self.random.random() < 0.2:
                self.between()
            data = point.reader.pread(offset=block * BLOCK_BYTES, length=8)
            versions[block] = int.from_bytes(data, "big")
        return Image(point.position, versions, chosen)

    def check(self, name: str, image: Image, *, histories: bool = False) -> None:
        """Check that an image that is called consistent equals the volume as of its position.

        histories: the position may be of a history that ended.
        """
        if not image.position.is_consistent:
            return
        host, position = self.world.host, image.position.position
        possible = [host.versions_at(name, position)]
        possible += host.versions_in_ended(name, position) if histories else []
        differing = [
            [
                block
                for block in range(BLOCKS)
                if image.versions.get(block, 0) != versions.get(block, 0)
            ]
            for versions in possible
        ]
        assert [] in differing, f"{name} at {position}: {differing}, {image.chosen}"
