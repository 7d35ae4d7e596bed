"""The locks of a site's workers in memory: a table from which a crash frees what a worker had."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final


class LockTable:
    """The locks of one site, by what is locked: "start", ("slot", N) and ("partition", P)."""

    def __init__(self) -> None:
        self.owners: Final[dict[object, MemoryLocks]] = {}

    def open(self, hook: Callable[[str], None] = lambda _: None) -> MemoryLocks:
        """Return the locks of one more worker. hook: called before each step; it may raise."""
        return MemoryLocks(self, hook)

    def owner_of_partition(self, partition: int) -> MemoryLocks | None:
        """Return whose lock the partition's is; None if it is free."""
        return self.owners.get(("partition", partition))


class MemoryLocks:
    """WorkerLocks in a LockTable. close() is what a crash does, too."""

    def __init__(self, table: LockTable, hook: Callable[[str], None]) -> None:
        self._table, self._hook = table, hook
        self._slot: int | None = None

    def lock_start(self) -> bool:
        """Lock the start."""
        return self._lock("start")

    def unlock_start(self) -> None:
        """Unlock the start."""
        self._unlock("start")

    def lock_slot(self) -> int:
        """Lock the lowest free slot, and return it."""
        if self._slot is None:
            self._slot = next(slot for slot in count() if self._lock(("slot", slot)))
        return self._slot

    def unlock_slot(self) -> None:
        """Unlock the own slot. Partitions stay locked."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._unlock(("slot", slot))

    def live_slots(self) -> frozenset[int]:
        """Return the slots that are locked."""
        self._hook("live slots")
        keys = (key for key in self._table.owners if isinstance(key, tuple))
        return frozenset(number for kind, number in keys if kind == "slot")

    def lock_partition(self, partition: int) -> bool:
        """Lock a partition. Return False if another worker has it."""
        return self._lock(("partition", partition))

    def free_partitions(self, count: int) -> frozenset[int]:
        """Return the partitions below `count` that nobody has locked."""
        return frozenset(number for number in range(count) if not self._is_locked(number))

    def unlock_partition(self, partition: int) -> None:
        """Unlock a partition."""
        self._unlock(("partition", partition))

    def close(self) -> None:
        """Unlock everything."""
        self._slot = None
        for key in [key for key, owner in self._table.owners.items() if owner is self]:
            del self._table.owners[key]

    def _is_locked(self, partition: int) -> bool:
        return self._table.owner_of_partition(partition) is not None

    def _lock(self, key: object) -> bool:
        self._hook("lock")
        return self._table.owners.setdefault(key, self) is self

    def _unlock(self, key: object) -> None:
        self._hook("unlock")
        if self._table.owners.get(key) is self:
            del self._table.owners[key]
