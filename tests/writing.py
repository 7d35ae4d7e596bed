"""A host made by hand: it sends commands in sequence, and records when each was answered."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from deadlines import DEADLINE_S
from notation import command

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.codec.events import encode
from mirrorlog.codec.status_batches import read_statuses
from mirrorlog.domain.commands import StatusCode
from mirrorlog.domain.extents import U8, U64, ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.settings import Settings


def make_volumes(
    settings: Settings, sizes: Mapping[str, int], primaries: Path | None = None
) -> dict[str, Volume]:
    """Publish descriptions of new volumes with 4 KiB blocks.

    primaries: a folder in which each volume gets a file of random bytes.
    """
    admin, publisher = KafkaAdmin(settings.kafka_client()), KafkaPublisher(settings.kafka_client())
    count = admin.partitions(settings.topics.commands)
    ends = [admin.end_position(settings.topics.commands, partition) for partition in range(count)]
    volumes = {}
    for name, size in sizes.items():
        file = (primaries or Path("/none")) / f"{name}.img"
        if primaries is not None:
            primaries.mkdir(exist_ok=True)
            file.write_bytes(os.urandom(size))
        volumes[name] = new_volume(
            name, size_bytes=size, block_size=4096, primary=file.as_uri(), ends=ends, now_us=1
        )
    for volume in volumes.values():
        publish_volume(publisher, settings.topics, volume)
    publisher.flush(DEADLINE_S)
    publisher.close()
    admin.close()
    return volumes


def names_by_partition(partitions: int, per_partition: int = 1) -> list[str]:
    """Return names of volumes: `per_partition` of them for every partition."""
    ends = [0] * partitions
    by_partition: dict[int, list[str]] = {partition: [] for partition in range(partitions)}
    number = 0
    while any(len(names) < per_partition for names in by_partition.values()):
        name = f"v{number}"
        described = new_volume(
            name, size_bytes=4096, block_size=4096, primary="file:///none", ends=ends, now_us=1
        )
        names = by_partition[described.partition]
        if len(names) < per_partition:
            names.append(name)
        number += 1
    return [name for names in by_partition.values() for name in names]


class Writer:
    """Sends seeded random writes, zeros and discards of some volumes.

    session: the session of the commands; None: the commands belong to no session.
    """

    def __init__(
        self,
        settings: Settings,
        volumes: Mapping[str, Volume],
        seed: int = 1,
        session: str | None = "writer",
    ) -> None:
        self.topic, self.volumes, self._random = (
            settings.topics.commands,
            dict(volumes),
            np.random.default_rng(seed),
        )
        self._publisher = KafkaPublisher(settings.kafka_client())
        self._sequences = dict.fromkeys(volumes, 0)
        self._session = session
        self.sent = 0
        self.sent_at: dict[tuple[int, int], float] = {}
        """When each acknowledged command was sent (monotonic seconds), by (partition, position)."""

    def send(self, name: str, count: int, extents: int = 20, skip: int = 0) -> None:
        """Queue commands for the volume. `skip` sequence numbers are left out before the first."""
        self._sequences[name] += skip
        for _ in range(count):
            self.send_extents(name, self._extents(self.volumes[name], extents))

    def send_extents(self, name: str, extents: ExtentColumns) -> None:
        """Queue one command with these extents."""
        volume, number = self.volumes[name], self._sequences[name]
        self._sequences[name] += 1
        if self._session is None:
            number = -1
        event = command(
            name=name,
            sequence=number,
            generation=volume.generation,
            session=self._session or "none",
        )
        self.send_bytes(volume.partition, encode(replace(event, extents=extents)))

    def send_bytes(self, partition: int, value: bytes) -> None:
        """Queue the bytes of an event."""
        sent_at = time.monotonic()

        def acknowledged(position: int) -> None:
            self.sent_at[partition, position] = sent_at

        self._publisher.publish(self.topic, partition, b"k", value, acknowledged)
        self._publisher.poll(0)
        self.sent += 1

    def _extents(self, volume: Volume, count: int) -> ExtentColumns:
        offsets = self._random.integers(0, volume.size_bytes, count)
        lengths = np.minimum(self._random.integers(1, 20_000, count), volume.size_bytes - offsets)
        kinds = self._random.choice(np.array([0, 0, 0, 1, 2], U8), count)
        return ExtentColumns(offsets.astype(U64), lengths.astype(U64), kinds)

    def flush(self) -> None:
        """Return when every command is acknowledged."""
        self._publisher.flush(DEADLINE_S)

    def close(self) -> None:
        """Release the client."""
        self.flush()
        self._publisher.close()

    @contextmanager
    def at_full_speed(self, pace_s: float = 0.0) -> Iterator[None]:
        """Send commands for all volumes in turn, from another thread, while the block runs."""
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                for name in self.volumes:
                    self.send(name, 1)
                if pace_s:
                    stop.wait(pace_s)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(DEADLINE_S)
            self.flush()


class StatusTimes:
    """The statuses of all partitions, with their arrival times (monotonic seconds)."""

    def __init__(self, settings: Settings) -> None:
        admin = KafkaAdmin(settings.kafka_client())
        self._reader = KafkaReader(settings.kafka_client())
        self._reader.assign(
            settings.topics.status, dict.fromkeys(range(admin.partitions(settings.topics.status)))
        )
        admin.close()
        self.arrived_at: dict[tuple[int, int], list[float]] = {}
        self.codes: dict[tuple[int, int], list[StatusCode]] = {}

    def poll(self, timeout_s: float) -> None:
        """Read the statuses that have arrived."""
        for message in self._reader.poll(timeout_s):
            now = time.monotonic()
            for status in read_statuses(message.value or b""):
                position = (status.partition, status.position)
                self.arrived_at.setdefault(position, []).append(now)
                self.codes.setdefault(position, []).append(status.code)

    def wait_for(
        self, positions: Iterable[tuple[int, int]], deadline_s: float = DEADLINE_S
    ) -> None:
        """Return when each of the commands at (partition, position) has a status."""
        until = time.monotonic() + deadline_s
        waiting = set(positions)
        while waiting := waiting - self.arrived_at.keys():
            assert time.monotonic() < until, (
                f"{len(waiting)} commands aren't answered, the first {min(waiting)}"
            )
            self.poll(0.2)

    def largest_gap_s(self, since: float, until: float) -> float:
        """Return the longest time in which a partition got no status."""
        times: dict[int, list[float]] = defaultdict(lambda: [since, until])
        for (partition, _), arrived_at in self.arrived_at.items():
            times[partition] += [at for at in arrived_at if since <= at <= until]
        return max(
            later - earlier
            for arrivals in times.values()
            for earlier, later in pairwise(sorted(arrivals))
        )

    def close(self) -> None:
        """Release the client."""
        self._reader.close()
