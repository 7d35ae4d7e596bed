"""The items as of the last look, and which of them changed after a version.

A client is sent what differs between the version that it has and the newest one. So nothing is
queued for a client: one that reads slowly gets several changes of an item as one, and memory
doesn't grow with the number of clients or with their pace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from mirrorlog.consumers.dashboard.page_items import Fields, ItemKey

MAX_REMOVED: Final = 10_000
"""So many removed items are remembered. A client that is further behind is sent everything."""


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """What a client needs to get to `version`.

    is_everything: the client drops what it has first. items: new or changed, the oldest change
    first. removed: items that are no more.
    """

    version: int
    is_everything: bool
    items: Sequence[tuple[ItemKey, Fields]]
    removed: Sequence[ItemKey]


class LiveItems:
    """The items of the last look. One thread calls replace(); any thread calls changes_after().

    epoch: names this object among those of all processes; a version counts only together with it.
    """

    def __init__(self, epoch: str, max_removed: int = MAX_REMOVED) -> None:
        self.epoch: Final = epoch
        self._max_removed: Final = max_removed
        self._lock: Final = Lock()
        self._fields: dict[ItemKey, Fields] = {}
        # Both are ordered by version, the newest last.
        self._changed_at: dict[ItemKey, int] = {}
        self._removed_at: dict[ItemKey, int] = {}
        self._forgotten = 0  # removals at this version or before it aren't remembered
        self._version = 0

    @property
    def version(self) -> int:
        """The newest version. It is 0 before the first look."""
        return self._version

    def replace(self, items: Mapping[ItemKey, Fields]) -> bool:
        """Take the items of a new look instead of all others. Return whether they differ."""
        before = self._fields
        changed = {key: new for key, new in items.items() if before.get(key) != new}
        removed = [key for key in before if key not in items]
        if not changed and not removed:
            return False
        # Equal items stay the objects that they were, so that an old and a new one share memory.
        fields = {key: new if key in changed else before[key] for key, new in items.items()}
        with self._lock:
            self._fields = fields
            self._version += 1
            for key in removed:
                del self._changed_at[key]
                self._removed_at[key] = self._version
            for key in changed:
                self._changed_at.pop(key, None)
                self._changed_at[key] = self._version
                self._removed_at.pop(key, None)
            while len(self._removed_at) > self._max_removed:
                oldest = next(iter(self._removed_at))
                self._forgotten = self._removed_at.pop(oldest)
        return True

    def changes_after(self, version: int | None) -> ItemChanges:
        """Return what changed after `version` of this epoch; everything if that is None.

        Everything, too, if the version isn't one of this epoch, or if removals since then are
        forgotten.
        """
        with self._lock:
            if version is None or not self._forgotten <= version <= self._version:
                return ItemChanges(self._version, True, list(self._fields.items()), ())
            items = []
            for key in reversed(self._changed_at):
                if self._changed_at[key] <= version:
                    break
                items.append((key, self._fields[key]))
            removed = [key for key, at in self._removed_at.items() if at > version]
            return ItemChanges(self._version, False, items[::-1], removed)
