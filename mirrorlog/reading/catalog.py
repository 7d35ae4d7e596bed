"""The volumes that exist, as the topic `mirrorlog.volumes` describes them.

refresh() reads the topic to its end as of now, so that no volume counts as unknown only because its
description is newer than the last look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from uuid import uuid4

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.partitioning import partition_of
from mirrorlog.domain.volumes import VOLUME_NAME, Volume, check_geometry, check_volume_name
from mirrorlog.errors import BadInput, MirrorlogError, OutOfRetention, UnknownVolume
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, Publisher, TopicAdmin, TopicReader
from mirrorlog.reading.clusters import ClusterCheck, IdentifiedCluster
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.topics import Topics

_PARTITION = 0
_CLOCK_ERROR_US = 10_000_000
"""A description's time of creation may be too early by this much."""


class Catalog(Mapping[str, Volume]):
    """Descriptions by volume name. refresh() brings them up to date.

    A description never replaces one of a later history, or one from a command at a higher position:
    a node that was cut off may publish its old description late (invariant 10).

    Any thread may call any method. A call of refresh() or poll() waits for the one that runs: what
    that one has read but not taken yet would be missing otherwise.

    patience_s: how long refresh() waits for a broker that doesn't answer.
    cluster: whose positions the descriptions name; None: that of `admin`.
    """

    def __init__(
        self,
        reader: TopicReader,
        admin: TopicAdmin,
        topics: Topics,
        clock: Clock,
        patience_s: float = 30.0,
        *,
        cluster: IdentifiedCluster | None = None,
    ) -> None:
        patience = ReadPatience(clock, patience_s, "reading the volumes' descriptions")
        self._cluster = ClusterCheck(admin if cluster is None else cluster)
        self._topic = CompactedTopic(reader, admin, topics.volumes, patience)
        self._volumes: dict[str, Volume] = {}
        self._reading = Lock()

    def refresh(self) -> None:
        """Read every description published before the call.

        Raise KafkaFailed as read_through, WrongCluster if a description is of another cluster.
        """
        with self._reading:
            for message in self._topic.read_to_end():
                self._take_message(message)

    def poll(self, timeout_s: float) -> None:
        """Take the descriptions that have arrived; wait up to `timeout_s` for one.

        Raise WrongCluster if a description is of another cluster, BadInput if one can't be read:
        all others that have arrived are taken nevertheless. OutOfRetention as TopicReader.poll:
        the topic was made anew, or the broker went back in time. The next call reads the topic
        from its beginning.
        """
        with self._reading:
            try:
                messages = self._topic.poll(timeout_s)
            except OutOfRetention:
                self._topic.start_over()
                raise
            refused: MirrorlogError | None = None
            for message in messages:
                try:
                    self._take_message(message)
                except MirrorlogError as error:
                    refused = refused or error
            if refused is not None:
                raise refused

    def _take_message(self, message: Message) -> None:
        if message.key is None:
            return
        if message.value is None:
            self._volumes.pop(message.key.decode(errors="replace"), None)
        else:
            description = decode(message.value, Volume)
            if not VOLUME_NAME.fullmatch(description.volume):
                raise BadInput(
                    f"'{description.volume[:60]}' can't name a volume",
                    where=f"a description at position {message.position}",
                    next="Find out who wrote it: only `volume create` and nodes should.",
                )
            self._cluster.check(description.cluster, f"volume {description.volume}")
            self.take(description)

    def take(self, description: Volume) -> None:
        """Take a description, unless a newer one is known."""
        known = self._volumes.get(description.volume)
        if known is None or known.description_order <= description.description_order:
            self._volumes[description.volume] = description

    def volume_named(self, name: str) -> Volume:
        """Return the description of volume `name`; raise UnknownVolume if there is none.

        Call refresh() first: a volume that was described a moment ago is then not unknown.
        """
        volume = self._volumes.get(name)
        if volume is None:
            raise UnknownVolume(
                f"there is no volume '{name[:220]}'",
                next="`mirrorlog volume list` or GET /v1/volumes of a node shows those that exist.",
            )
        return volume

    def __getitem__(self, volume: str) -> Volume:
        return self._volumes[volume]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._volumes))  # another thread may take a description meanwhile

    def __len__(self) -> int:
        return len(self._volumes)

    def close(self) -> None:
        """Close the reader."""
        self._topic.close()


def new_volume(
    name: str,
    *,
    size_bytes: int,
    block_size: int,
    primary: str,
    ends: Sequence[int],
    now_us: int,
    cluster: str | None = None,
) -> Volume:
    """Return the description of a new volume that reads as zeros.

    ends: by partition, where the commands topic ends now. The volume's history begins there.
    cluster: the id of the cluster to which these positions belong.
    Raise BadUse for a name, a size or a block size that is impossible.
    """
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
        cluster=cluster,
    )


def publish_volume(publisher: Publisher, topics: Topics, volume: Volume) -> None:
    """Queue a description. Flush the publisher before anyone writes to the volume."""
    publisher.publish(topics.volumes, _PARTITION, volume.volume.encode(), encode(volume))


def publish_new_volume(
    publisher: Publisher, topics: Topics, volume: Volume, deadline_s: float
) -> Volume:
    """Publish the description of a new volume; return it when it is acknowledged.

    Nothing is recorded of a volume before it was created. So if this machine's clock turns out to
    be behind the broker's, the description is published again, with the broker's time. Raise
    KafkaFailed at the deadline.
    """
    publish_volume(publisher, topics, volume)
    publisher.flush(deadline_s)
    append = publisher.last_append
    if append is None or not append.by_broker:
        return volume
    if append.at_us - volume.created_at_us <= _CLOCK_ERROR_US:
        return volume
    volume = replace(volume, created_at_us=append.at_us)
    publish_volume(publisher, topics, volume)
    publisher.flush(deadline_s)
    return volume
