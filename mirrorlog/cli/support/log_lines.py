"""The log lines of a process: who may print what on stderr, and how often."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from threading import Lock
from typing import Final

from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.ports.clock import Clock, SystemClock

_QUIET_S: Final = 60.0
"""A line that wasn't logged for so long counts as recovered: no library says so itself."""
_LONGEST_S: Final = 600.0


class RepeatFilter(logging.Filter):
    """Drops what libraries log again and again: at first all of it, later at growing intervals.

    Two clients of one broker that is away log a hundred lines a second. A line's subject is the
    place in the code that logs it. Lines of mirrorlog itself pass: it uses RetryReports.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._lock = Lock()
        self._reports = RetryReports(longest_s=_LONGEST_S)
        self._logged_at_s: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print the line. A line that was repeated says how often."""
        if record.name.split(".")[0] == "mirrorlog" or record.levelno < logging.WARNING:
            return True
        place, now_s = (record.pathname, record.lineno), self._clock.monotonic_s()
        with self._lock:
            last_s = self._logged_at_s.get(place, now_s)
            self._logged_at_s[place] = now_s
            if now_s - last_s > _QUIET_S:
                self._reports.worked(place, now_s=last_s)
            text = self._reports.failed(place, record.getMessage(), now_s=now_s)
        if text is not None:
            record.msg, record.args = text, ()
        return text is not None


class ZonedFormatter(logging.Formatter):
    """Formats the time of a line by RFC 3339, in UTC with milliseconds: 2026-11-28T02:00:01.123Z.

    All roles print it, and so do the lines of libraries (Faust, aiokafka, librdkafka).
    """

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of `record`; `datefmt` is ignored."""
        del datefmt
        at = datetime.fromtimestamp(record.created, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up_logging(*, verbose: bool) -> None:
    """Print log lines on stderr: warnings and errors, or with `verbose` all details, too."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(ZonedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[stderr])
    if verbose:
        logging.getLogger("mirrorlog.kafka").setLevel(logging.DEBUG)
        return
    # It logs each attempt, without what failed. mirrorlog logs that itself.
    logging.getLogger("stamina").setLevel(logging.CRITICAL)
    # Faust's timers log each run that takes longer than their interval, as on a busy machine. What
    # doesn't get on is reported by the node itself (partition_watch.py).
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    for handler in logging.root.handlers:
        handler.addFilter(RepeatFilter(SystemClock()))
