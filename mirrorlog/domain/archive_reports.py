"""The report of an archiver: how far the archive is. It is for people, and nothing decides by it.

It is published to the topic `mirrorlog.reports`, which keeps the newest of each key.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedPartition:
    """How far a partition is archived. A number that isn't known is None.

    archived_through: the end of the archive; -1 before the first position. recorded_through: the
        log is complete through this position, so at most this can be archived. first_kept: the
        oldest position that Kafka keeps.
    reason: why the last round didn't archive everything that is recorded.
    """

    partition: int
    archived_through: int | None = None
    recorded_through: int | None = None
    first_kept: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReport:
    """What an archiver did in its last round. The key is `archive/<address>`.

    archive: the address; it holds no secret. host: the machine, for people.
    at_us: when the round ended, microseconds since 1970 by the archiver's clock.
    every_s: the time between two rounds; None if it was called for one.
    keep_s: how long Kafka keeps what is archived; None if the topic's own retention holds.
    is_over: the archiver has ended, after one round or in good order.
    """

    archive: str
    host: str
    at_us: int
    every_s: float | None
    keep_s: float | None
    partitions: tuple[ArchivedPartition, ...]
    is_over: bool = False

    @property
    def key(self) -> bytes:
        """The key of the message."""
        return f"archive/{self.archive}".encode()
