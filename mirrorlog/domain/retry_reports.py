"""Which failures of something that is tried again and again are worth a line in the log."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.units import format_duration

_REASONS: Final = 8
"""So many different reasons of one subject are reported at once; further ones at the intervals."""


@dataclass(slots=True)
class _Failing:
    """A subject that fails, or that failed a short time ago.

    interval_s: from the last report of the same reasons to the next one.
    is_reported: a failure was reported after the last report that the subject works.
    """

    began_s: float
    interval_s: float
    report_at_s: float
    failures: int = 0
    reasons: set[str] = field(default_factory=set)
    is_reported: bool = True
    worked_at_s: float | None = None


class RetryReports:
    """Decides what to log of subjects that are tried again and again, such as volumes.

    The first failure of a subject is logged. The next ones are logged at intervals: the first
    interval is `first_s`, each later one is twice as long, up to `longest_s`. A failure for a
    reason that is new is logged at once. So is the first success after a failure that was logged.
    A subject that fails again soon after it worked continues its intervals: one that fails and
    works in turn costs no more lines than one that only fails.

    Times are seconds of a monotonic clock, which the caller passes. Not safe for several threads.
    """

    def __init__(self, *, first_s: float = 60.0, longest_s: float = 3600.0) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._failing: dict[Hashable, _Failing] = {}

    def failed(self, subject: Hashable, reason: str, *, now_s: float) -> str | None:
        """Note that `subject` failed. Return the text to log, or None to log nothing."""
        known = self._failing.get(subject)
        if known is None or _has_recovered(known, now_s):
            known = _Failing(now_s, self._first_s, now_s + self._first_s, 1, {reason})
            self._failing[subject] = known
            return reason
        known.failures += 1
        known.worked_at_s = None
        if now_s >= known.report_at_s:
            known.interval_s = min(2 * known.interval_s, self._longest_s)
            known.report_at_s = now_s + known.interval_s
            known.reasons.add(reason)
            known.is_reported = True
            return f"{reason} ({_count(known, now_s)})"
        if reason in known.reasons or len(known.reasons) >= _REASONS:
            return None
        known.reasons.add(reason)
        known.is_reported = True
        return reason

    def worked(self, subject: Hashable, *, now_s: float) -> str | None:
        """Note that `subject` worked. Return the text to log, or None to log nothing."""
        known = self._failing.get(subject)
        if known is None:
            return None
        if known.worked_at_s is None:
            known.worked_at_s = now_s
        elif _has_recovered(known, now_s):
            del self._failing[subject]
        if not known.is_reported:
            return None
        known.is_reported = False
        return f"works again after {_count(known, now_s)}"

    def forget(self, subject: Hashable) -> None:
        """Forget a subject: its next failure is a first one."""
        self._failing.pop(subject, None)


def _has_recovered(known: _Failing, now_s: float) -> bool:
    """Return whether the subject has worked for so long that the next failure is a first one."""
    return known.worked_at_s is not None and now_s - known.worked_at_s >= known.interval_s


def _count(known: _Failing, now_s: float) -> str:
    failures = "1 failure" if known.failures == 1 else f"{known.failures:,} failures"
    return f"{failures} in {format_duration(now_s - known.began_s)}"
