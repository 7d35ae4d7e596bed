"""The four levels of health, with the numbers of the Monitoring Plugins guidelines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Health(IntEnum):
    """A level of health. Its value is the exit code of `mirrorlog check`.

    Nothing is OK that isn't proved. What can't be judged is UNKNOWN, unless a rule knows worse.
    """

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def severity(self) -> int:
        """The order of the levels: OK, UNKNOWN, WARNING, CRITICAL."""
        return (Health.OK, Health.UNKNOWN, Health.WARNING, Health.CRITICAL).index(self)


def worst(levels: Iterable[Health]) -> Health:
    """Return the level of the highest severity; OK if there is none."""
    return max(levels, key=lambda level: level.severity, default=Health.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where one level of health ends and the next begins.

    warn_lag_s, crit_lag_s: of a secondary's lag, in seconds.
    warn_behind_bytes, crit_behind_bytes: of what it lacks. None: any number is fine.
    silent_after_s: a site, a host or a worker that has sent nothing for so long is silent. Sites
        send a lease every 3 s.
    quarantine_recent_s: an event that was refused within this time is a warning.
    spool_fraction: a spool that is fuller than this is a warning.
    """

    warn_lag_s: float = 60.0
    crit_lag_s: float = 600.0
    warn_behind_bytes: int | None = None
    crit_behind_bytes: int | None = None
    silent_after_s: float = 15.0
    quarantine_recent_s: float = 3600.0
    spool_fraction: float = 0.8

    def of_lag(self, lag_s: float) -> Health:
        """Return the health of a secondary with this lag."""
        return _level(lag_s, self.warn_lag_s, self.crit_lag_s)

    def of_behind(self, behind_bytes: int) -> Health:
        """Return the health of a secondary that lacks this number of bytes."""
        return _level(behind_bytes, self.warn_behind_bytes, self.crit_behind_bytes)


def _level(value: float, warn: float | None, crit: float | None) -> Health:
    if crit is not None and value >= crit:
        return Health.CRITICAL
    return Health.WARNING if warn is not None and value >= warn else Health.OK
