"""When the open batches and the heartbeats of a session are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile


@dataclass(slots=True)
class Timers:
    """Times by the monotonic clock, in seconds. Each dict is in the order of its times.

    batch_since_s: by volume, when its open batch got its first extent.
    heartbeat_s: by partition in which volumes are open, when the last heartbeat left for it.
    """

    batch_since_s: dict[str, float] = field(default_factory=dict)
    heartbeat_s: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DueWork:
    """The work that is due: the open batches of volumes, and heartbeats for partitions."""

    batches: Sequence[str]
    heartbeats: Sequence[int]


def due_work(timers: Timers, now_s: float, *, linger_s: float, heartbeat_s: float) -> DueWork:
    """Return the batches that have lingered, and the heartbeats whose last one is old enough.

    A heartbeat says which position was acknowledged. If that was the end of the topic after a
    site's last read, the heartbeat proves to the site that it read nothing unnamed
    (VolumeHead.settled_after). Of two heartbeats in a row, the second one does. Nobody tells the
    host when a site reads, so heartbeats go on as long as the session is open.
    """
    batches = takewhile(
        lambda volume: now_s - timers.batch_since_s[volume] >= linger_s, timers.batch_since_s
    )
    heartbeats = takewhile(
        lambda partition: now_s - timers.heartbeat_s[partition] >= heartbeat_s, timers.heartbeat_s
    )
    return DueWork(list(batches), list(heartbeats))
