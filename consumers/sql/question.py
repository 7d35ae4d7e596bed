"""What is asked in SQL, and which rows are read for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

ROW_VIEWS = ("writes", "history", "writes_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlQuestion:
    """A query, and the rows that its views hold.

    volumes: patterns of the volumes whose rows are read; without any, of all.
    since_us, until_us: only rows that the broker appended in [since_us, until_us], microseconds
        since 1970; None: no limit. Rows without such a time are left out where there is a limit.
    memory_bytes: of DuckDB. What doesn't fit goes to a temporary folder.
    """

    query: str
    volumes: Sequence[str] = ()
    since_us: int | None = None
    until_us: int | None = None
    memory_bytes: int = 1 << 30

    def is_wanted(self, volume: str) -> bool:
        """Return whether rows of a volume are read."""
        if not self.volumes:
            return True
        return any(fnmatchcase(volume, pattern) for pattern in self.volumes)

    def names(self, *views: str) -> bool:
        """Return whether the query has one of these words: then the view is filled."""
        return any(re.search(rf"\b{view}\b", self.query, re.IGNORECASE) for view in views)
