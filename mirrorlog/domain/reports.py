"""The reports of hosts and of workers of the node: what each of them does now, for people.

They are published to the topic `mirrorlog.reports`, which keeps the newest of each key. Nothing
decides by them: a role that gets no report does the same. A number that isn't known is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HostState(StrEnum):
    """Whether a host has a volume open. An older reader sees UNKNOWN for a newer state."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"  # closed in good order: everything is published
    UNKNOWN = "UNKNOWN"


class NodePartitionState(StrEnum):
    """What a worker of the node does with a partition. An older reader sees UNKNOWN."""

    RECOVERING = "RECOVERING"  # its table is rebuilt, or read up to the end of the changelog
    RUNNING = "RUNNING"
    HOLDING_BACK = "HOLDING_BACK"  # Kafka doesn't acknowledge what is to be recorded
    STUCK = "STUCK"  # a step makes no progress although it has work to do
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkReport:
    """A secondary of a forked volume. state: the name of a ForkState of the host's release."""

    site: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What one host does with one volume. The key is `host/<host>/<volume>`.

    session, generation: UUIDs, of the host's run and of the volume's history.
    started_at_us, at_us: when the session began, and when this was true: microseconds since 1970 by
        the host's clock.
    hot_regions: the regions of this volume that may hold writes which Kafka hasn't acknowledged.
        The whole volume is hot if `is_whole_volume_hot`.
    hot_regions_limit: of the host, for all its volumes together.
    region_bytes: the size of a region.
    queued_bytes: of commands with the Kafka client, which aren't acknowledged yet; of the host.
    spool_bytes, spool_limit_bytes: the disk space that the host's spool takes, and may take.
    away_since_us: since when Kafka counts as away, by the host's clock; None if it answers.
    writes, bytes_written: that commands of this session name, since the volume was opened. A zero
        or a discard is a write here. A write that covers another one in the same batch may count
        for both.
    acknowledged_position: of the volume's last command that Kafka has acknowledged; None before.
    """

    host: str
    volume: str
    session: str
    generation: str
    state: HostState
    started_at_us: int
    at_us: int
    hot_regions: int
    hot_regions_limit: int
    region_bytes: int
    queued_bytes: int
    spool_bytes: int
    spool_limit_bytes: int
    away_since_us: int | None
    writes: int
    bytes_written: int
    acknowledged_position: int | None
    forks: tuple[ForkReport, ...] = ()
    is_whole_volume_hot: bool = False

    @property
    def key(self) -> bytes:
        """The key of the message."""
        return f"host/{self.host}/{self.volume}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    """What a worker of the node knows of one of its partitions.

    recorded_through: the log is complete through this position; -1 before the first; None while the
        table is recovered.
    commands_end: where the commands end, as the last fetch saw it.
    behind_commands: positions from recorded_through to commands_end. Markers of transactions count.
    lag_s: the age of the oldest command that was fetched and isn't recorded, by the broker's time;
        0 if all commands through commands_end are recorded.
    table_bytes: the size of the partition's table, as RocksDB estimates it without reading it.
    oldest_record_at_us: when the oldest record of the log ends: microseconds since 1970. No node
        fills it yet, and status doesn't show it.
    reason: why the partition is HOLDING_BACK or STUCK.
    """

    partition: int
    state: NodePartitionState
    recorded_through: int | None = None
    commands_end: int | None = None
    behind_commands: int | None = None
    lag_s: float | None = None
    table_bytes: int | None = None
    oldest_record_at_us: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What one worker of the node does. The key is `node/<node>`.

    started_at_us, at_us: microseconds since 1970 by the worker's clock.
    http_url: where it answers over HTTP; None if it doesn't.
    accepted, refused, quarantined: commands since the worker's start. A command that is read again
        counts again.
    is_over: the worker has stopped in good order, and has no partition.
    """

    node: str
    started_at_us: int
    at_us: int
    http_url: str | None
    version: str
    partitions: tuple[PartitionReport, ...]
    accepted: int
    refused: int
    quarantined: int
    is_over: bool = False

    @property
    def key(self) -> bytes:
        """The key of the message."""
        return f"node/{self.node}".encode()
