"""Log records: the blocks of a volume that changed between two positions.

A record says which blocks changed in `(after, through]`. It is a pure function of the commands in
that range: every worker that folds the same range writes the same bytes under the same key. So
replays, duplicates, and a worker that returns late, change nothing (invariant 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypedDict

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import is_imported_host

MAX_PARTS: Final = (1 << 16) - 1
"""The most parts of a record: their number has 16 bits in the record and in its key."""
MAX_HOSTS: Final = 64
"""The most hosts that a record names."""


class NamedHosts(TypedDict):
    """The fields of a LogRecord that name its hosts."""

    hosts: tuple[str, ...]
    has_more_hosts: bool


def named_hosts(hosts: Iterable[str], *, has_more: bool = False) -> NamedHosts:
    """Return the fields of a record for these hosts: the first MAX_HOSTS in alphabetical order.

    has_more: some hosts were left out before. The commands in the record's range name them all.
    """
    names = sorted(set(hosts))
    return {
        "hosts": tuple(names[:MAX_HOSTS]),
        "has_more_hosts": has_more or len(names) > MAX_HOSTS,
    }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LogRecord:
    """The blocks of `volume` that changed in `(after, through]`, or one part of them.

    tier: an index into TIERS (tiers.py).
    changed: every block with a byte that was written, zeroed or discarded.
    zeroed: the blocks that a zero or discard covered whole; a subset of `changed`.
    first_at_us, last_at_us, commands, writes, bytes_written, hosts: for people. Positions, not
    times, order records (invariant 10). bytes_written: 2^63 - 1 stands for more, too.
    has_more_hosts: `hosts` names only some (named_hosts).
    part, parts: this is part `part`, counted from 0, of a record that was split by block range.
    """

    volume: str
    generation: str
    tier: int
    after: int
    through: int
    block_size: int
    changed: BlockSet
    zeroed: BlockSet
    first_at_us: int
    last_at_us: int
    commands: int
    writes: int
    bytes_written: int
    hosts: tuple[str, ...]
    part: int = 0
    parts: int = 1
    has_more_hosts: bool = False

    @property
    def is_only_imported(self) -> bool:
        """Return whether it holds imports and nothing else, as far as hosts' names tell."""
        return not self.has_more_hosts and all(map(is_imported_host, self.hosts))
