"""The world's host: it writes to the primaries, and publishes what it wrote late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, ForkOutcomes, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.snapshots import SnapshotExport
from mirrorlog.domain.volumes import Volume
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice

BLOCK_BYTES: Final = 512
BLOCKS: Final = 48
SIZE_BYTES: Final = BLOCK_BYTES * BLOCKS


def content(version: int) -> bytes:
    """Return the content of a block at a version."""
    return version.to_bytes(8, "big") * (BLOCK_BYTES // 8)


class _Versions:
    """The version of each block as of a position, kept for the checks that ask again.

    history: (position, block, version) of what was written. It only grows.
    """

    def __init__(self, history: Sequence[tuple[int, int, int]], position: int) -> None:
        self.history, self.position = history, position
        self._taken, self._versions = 0, dict[int, int]()

    def now(self) -> Mapping[int, int]:
        """Return the versions by all that is in the history now."""
        new, self._taken = self.history[self._taken :], len(self.history)
        self._versions |= {block: version for at, block, version in new if at <= self.position}
        return self._versions


class HostModel:
    """One host with one session. It remembers what each block held as of each position.

    primaries: by volume, the devices. acknowledged: the position of its last command.
    lost: the volumes of which a command was lost. described: their descriptions, as the host knows
    them. deaths: how often it died. is_dead: it has died, and isn't recovered yet.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        settings: Settings,
        volumes: Mapping[str, Volume],
        random: Random,
    ) -> None:
        self._broker, self._topic, self._random = broker, settings.topics.commands, random
        self.volumes = volumes
        self.described = dict(volumes)
        self.primaries = {name: MemoryDevice(SIZE_BYTES) for name in volumes}
        self.acknowledged = -1
        # Never forgotten, as by AcknowledgedPositions: positions that go back show a break.
        self._last_acknowledged = -1
        self.lost: set[str] = set()
        # By volume: (block, version) in the open batch, (position, block, version) published.
        self._open_batches: dict[str, list[tuple[int, int]]] = {name: [] for name in volumes}
        self._history: dict[str, list[tuple[int, int, int]]] = {name: [] for name in volumes}
        # The same as of the end of each history that ended.
        self._ended: list[dict[str, list[tuple[int, int, int]]]] = []
        self._sequences: Counter[str] = Counter()
        self._versions: dict[str, _Versions] = {}
        self.deaths, self.is_dead = 0, False
        self._version = self._snapshots = 0

    def write(self) -> None:
        """Write a few blocks of a volume, both drawn, unless the host is dead."""
        if self.is_dead:
            return
        name = self.draw_volume()
        first = self._random.randrange(BLOCKS)
        for block in range(first, min(first + self._random.randint(1, 4), BLOCKS)):
            self.write_block(name, block)

    def draw_volume(self) -> str:
        """Return a volume that is drawn."""
        return self._random.choice(list(self.volumes))

    def write_block(self, name: str, block: int) -> None:
        """Write a block of the primary. Its address joins the open batch."""
        self._version += 1
        self.primaries[name].pwrite(block * BLOCK_BYTES, content(self._version))
        self._open_batches[name].append((block, self._version))

    def write_untracked(self, name: str, block: int) -> None:
        """Write a block of the primary without a command. It counts as published."""
        self._version += 1
        self.primaries[name].pwrite(block * BLOCK_BYTES, content(self._version))
        self._history[name].append((self.acknowledged, block, self._version))

    def write_forked(
        self,
        name: str,
        block: int,
        secondaries: Sequence[MemoryDevice],
        forks: tuple[ForkOutcomes, ...],
    ) -> None:
        """Write a block of the primary and of `secondaries` durably, and publish it at once."""
        self._version += 1
        for device in (self.primaries[name], *secondaries):
            device.pwrite(block * BLOCK_BYTES, content(self._version))
            device.flush()
        self._history[name].append((self.acknowledged + 1, block, self._version))
        self.send(name, CommandKind.WRITES, [Extent(block * BLOCK_BYTES, BLOCK_BYTES)], forks)

    def publish(self, name: str) -> None:
        """Publish the open batch of a volume.

        The command names only some bytes of each block, so that rounding inwards would lose it
        (invariant 4). A dead host publishes nothing.
        """
        if self.is_dead:
            return
        batch, self._open_batches[name] = self._open_batches[name], []
        extents = [Extent(block * BLOCK_BYTES + 8, 8) for block, _ in batch]
        position = self.send(name, CommandKind.WRITES, extents)
        self._history[name] += [(position, block, version) for block, version in batch]

    def lose(self) -> None:
        """Lose a command of a volume that is drawn. Nobody knows which blocks it named."""
        name = self.draw_volume()
        self._sequences[name] += 1
        self.lost.add(name)

    def were_at_once(self, positions: Mapping[str, int]) -> bool:
        """Return whether the primaries of these volumes were as of these positions at one moment.

        positions: by volume. Versions count the writes to all volumes.
        """
        contained = (
            version
            for name, position in positions.items()
            for at, _, version in self._history[name]
            if at <= position
        )
        newest = max(contained, default=0)
        left_out = [
            version
            for name, position in positions.items()
            for at, _, version in self._history[name]
            if at > position
        ]
        for name in positions:
            left_out += [version for _, version in self._open_batches[name]]
        return min(left_out, default=newest + 1) > newest

    def take_snapshot(self, name: str) -> tuple[MemoryDevice, SnapshotExport]:
        """Return a copy of a primary as it is now, and its position.

        All that was written is named at or below the position, and all that will be above it.
        """
        primary, device = self.primaries[name], MemoryDevice(SIZE_BYTES)
        hook, primary.hook = primary.hook, None
        device.pwrite(0, primary.pread(offset=0, length=SIZE_BYTES))
        primary.hook = hook
        self.publish(name)
        volume = self.described[name]
        self._snapshots += 1
        return device, SnapshotExport(
            volume=name,
            session=self.session,
            generation=volume.generation,
            history_id=volume.history_id,
            position=self.acknowledged,
            number=self._snapshots,
        )

    @property
    def session(self) -> str:
        """The session of the host that lives, or of the one that died."""
        return f"s{self.deaths}" if self.deaths else "s"

    def die(self) -> None:
        """Let the process be killed. What it hadn't published is in its activity log."""
        self.is_dead = True

    def recover(self) -> None:
        """Publish what the activity log holds as dirty, end that session, and begin another one."""
        for name, batch in self._open_batches.items():
            extents = [Extent(block * BLOCK_BYTES, BLOCK_BYTES) for block, _ in batch]
            if extents:
                position = self.send(name, CommandKind.MARK_DIRTY, extents)
                self._history[name] += [(position, block, version) for block, version in batch]
            self._open_batches[name] = []
            self.send(name, CommandKind.SESSION_CLOSE)
        self.deaths, self.is_dead = self.deaths + 1, False
        self._sequences.clear()
        for name in self.volumes:
            self.send(name, CommandKind.SESSION_OPEN)

    def publish_all(self) -> None:
        """Publish the open batch of each volume, also an empty one."""
        for name in self.volumes:
            self.publish(name)

    def heartbeat(self) -> None:
        """Publish all open batches, then a heartbeat, unless the host is dead."""
        if self.is_dead:
            return
        for name, batch in self._open_batches.items():
            if batch:
                self.publish(name)
        self.send("", CommandKind.HEARTBEAT)

    def close(self) -> None:
        """Publish everything, and close the session."""
        self.heartbeat()
        for name in self.volumes:
            self.send(name, CommandKind.SESSION_CLOSE)

    def send(
        self,
        name: str,
        kind: CommandKind,
        extents: Sequence[Extent] = (),
        forks: tuple[ForkOutcomes, ...] = (),
    ) -> int:
        """Publish one command; return its position."""
        volume = self.described.get(name) or next(iter(self.described.values()))
        command = TrackingCommand(
            volume=name,
            generation=volume.generation if name else volume.history_id or "",
            host="h",
            session=self.session,
            sequence=self._sequences[name],
            kind=kind,
            extents=ExtentColumns.of(extents),
            first_at_us=1,
            last_at_us=2,
            acknowledged_position=None if self.acknowledged < 0 else self.acknowledged,
            forks=forks,
        )
        self._sequences[name] += 1
        position = self._broker.append(self._topic, 0, name.encode(), encode(command))
        went_back = position <= self._last_acknowledged
        self._last_acknowledged = self.acknowledged = position
        if went_back:  # what was acknowledged before may be gone
            for volume_name in self.volumes:
                self.send(volume_name, CommandKind.MARK_DIRTY, [Extent(0, SIZE_BYTES)])
        return position

    def follow(self, described: Mapping[str, Volume]) -> None:
        """Take over newer descriptions. After a renewal no position is known."""
        for name, volume in described.items():
            if volume.generation != self.described[name].generation:
                self.acknowledged = -1
            self.described[name] = volume

    def lose_positions(self, end: int) -> None:
        """Note that the commands from position `end` on are gone. What they named was written."""
        self._ended.append({name: list(written) for name, written in self._history.items()})
        for name, written in self._history.items():
            self._history[name] = [
                (at if at < end else -1, block, version) for at, block, version in written
            ]

    def versions_in_ended(self, name: str, position: int) -> list[dict[int, int]]:
        """Return the same as versions_at(), for each history that ended."""
        return [
            {block: version for at, block, version in ended[name] if at <= position}
            for ended in self._ended
        ]

    def versions_at(self, name: str, position: int) -> Mapping[int, int]:
        """Return the version of each block that was written, as of a position."""
        history, known = self._history[name], self._versions.get(name)
        if known is None or known.history is not history or known.position != position:
            known = _Versions(history, position)
            self._versions[name] = known
        return known.now()
