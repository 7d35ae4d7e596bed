"""The report of a repository's backup of one volume, which is also its registration.

It is on the topic `mirrorlog.progress`, as the reports of sites are: the node keeps of the log what
the next incremental backup needs. Without a report, or behind a null under its key, the repository
isn't registered, and the log forgets what it wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import check_volume_name

BACKUP_KEYS: Final = b"@backup:"
"""The beginning of the keys of all reports of backups. No site can have a name that begins so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """How far the backups of a volume to one repository are.

    repository: its id, a canonical UUID. address: where it is, without a secret, for people.
    volume: the volume. generation, history_id: as in BackupPosition, of `position`.
    position: the next incremental backup needs the log above it. It is that of the last point, or
        the one at which the first point is being taken.
    point: the name of the last point; None if there is none. point_at_us: the time as of which it
        is; None if nobody knows. written_at_us: when it was finished, by the clock of `host`.
    is_consistent: whether it is proved to equal the volume; None without a point.
    rung: how its blocks were chosen; None without a point.
    reason: why it isn't consistent, or why a rung above CHANGED was taken; None for neither.
    failure: what the last attempt after it ended with; None if it succeeded.
    host: the machine that makes the backups. at_us: when it reported, by its clock.
    every_s: the time between two backups; None if nobody said so.

    Raise BadUse for a volume name that is none, ValueError for other values that no report has.
    """

    repository: str
    address: str
    volume: str
    generation: str
    history_id: str | None
    position: int
    host: str
    at_us: int
    point: str | None = None
    point_at_us: int | None = None
    written_at_us: int | None = None
    is_consistent: bool | None = None
    rung: str | None = None
    reason: str | None = None
    failure: str | None = None
    every_s: float | None = None

    def __post_init__(self) -> None:
        check_volume_name(self.volume)
        for text in (self.repository, self.generation, self.history_id):
            if text is not None and str(UUID(text)) != text:
                raise ValueError(f"'{text}' isn't a UUID in canonical form")
        if not BEFORE_FIRST <= self.position < 1 << 63:
            raise ValueError(f"{self.position} is no position")
        if (self.point is None) != (self.written_at_us is None):
            raise ValueError("a point without a time, or a time without a point")

    @property
    def key(self) -> bytes:
        """The key of the message."""
        return backup_key(self.repository, self.volume)


def backup_key(repository: str, volume: str) -> bytes:
    """Return the key of the reports of a repository on a volume."""
    return BACKUP_KEYS + f"{repository}/{volume}".encode()
