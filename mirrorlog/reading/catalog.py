"""The volumes there are, as `mirrorlog.volumes` tells: read up to its end as of now, so that nobody is taken for unknown
only because his description is newer than the last look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import uuid4

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.partitioning import partition_of
from mirrorlog.domain.volumes import Volume, check_geometry, check_volume_name
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.topics import Topics

_PARTITION = 0


class Catalog(Mapping[str, Volume]):
    """Descriptions by volume name; `refresh` brings it up to date.

    A description never takes back what a command at a higher position said: not where a node that was cut off publishes
    its own again, late (invariant 10).
    """

    def __init__(
        self,
        reader: TopicReader,
        admin: TopicAdmin,
        topics: Topics,
        clock: Clock,
        patience_s: float = 30.0,
    ) -> None:
        self._reader, self._admin, self._topic, self._clock = reader, admin, topics.volumes, clock
        self._patience_s = patience_s
        self._volumes: dict[str, Volume] = {}
        reader.assign(self._topic, {_PARTITION: None})

    def refresh(self) -> None:
        """Reads every description published before the call; KafkaFailed where that takes longer than the patience."""
        end = self._admin.end_position(self._topic, _PARTITION)
        until = self._clock.monotonic_s() + self._patience_s
        while self._reader.reached(self._topic, _PARTITION) < end:
            if self._clock.monotonic_s() > until:
                raise KafkaFailed(
                    f"the volumes' descriptions couldn't be read within {self._patience_s:g} s",
                    where=f"topic {self._topic}, up to position {end}",
                    next="Check that the broker answers.",
                )
            self.poll(0.1)

    def poll(self, timeout_s: float) -> None:
        """Takes what is there."""
        for message in self._reader.poll(timeout_s):
            if message.key is None:
                continue
            if message.value is None:
                self._volumes.pop(message.key.decode(), None)
            else:
                self.take(decode(message.value, Volume))

    def take(self, description: Volume) -> None:
        """Takes a description, unless a newer one is known."""
        known = self._volumes.get(description.volume)
        if known is None or known.described_position <= description.described_position:
            self._volumes[description.volume] = description

    def __getitem__(self, volume: str) -> Volume:
        return self._volumes[volume]

    def __iter__(self) -> Iterator[str]:
        return iter(self._volumes)

    def __len__(self) -> int:
        return len(self._volumes)

    def close(self) -> None:
        """Lets go of the reader."""
        self._reader.close()


def describe(
    name: str, size_bytes: int, block_size: int, primary: str, ends: Sequence[int], now_us: int
) -> Volume:
    """A new volume, all zeros. `ends`: where the commands topic ends now, by partition: its history begins there."""
    check_volume_name(name)
    check_geometry(size_bytes=size_bytes, block_size=block_size)
    partition = partition_of(name, len(ends))
    return Volume(
        volume=name,
        generation=str(uuid4()),
        size_bytes=size_bytes,
        block_size=block_size,
        partition=partition,
        origin_position=ends[partition] - 1,
        initially_zeroed=True,
        primary=primary,
        created_at_us=now_us,
    )


def publish_volume(publisher: Publisher, topics: Topics, volume: Volume) -> None:
    """Queues a description; the caller flushes before it lets anyone write."""
    publisher.publish(topics.volumes, _PARTITION, volume.volume.encode(), encode(volume))
