"""The port to the locks by which the workers of one site share its volumes.

The adapters are folder_locks.py and mirrorlog/simulation/memory_locks.py. Every lock ends when the
worker that has it dies, and never before: a worker that is stopped, or waits for a device that
hangs, keeps its locks.
"""

from __future__ import annotations

from typing import Protocol


class WorkerLocks(Protocol):
    """The locks of one worker. One thread calls it.

    There are three kinds: one for the time in which a worker starts or ends, a slot for each
    worker that lives, and one for each partition. Every method raises DeviceFailed if the folder
    can't be used, and BadUse if its file system has no locks.
    """

    def lock_start(self) -> bool:
        """Lock the site for the start or the end of this worker. Return False if another has it."""
        ...

    def unlock_start(self) -> None:
        """Let other workers start and end."""
        ...

    def lock_slot(self) -> int:
        """Lock the lowest free slot, and return it. The start must be locked."""
        ...

    def unlock_slot(self) -> None:
        """Unlock the own slot: this worker has no share any more. Partitions stay locked."""
        ...

    def live_slots(self) -> frozenset[int]:
        """Return the slots that are locked, with the own one. Nothing is locked meanwhile."""
        ...

    def lock_partition(self, partition: int) -> bool:
        """Lock a partition. Return False if another worker has it, True if this one has it."""
        ...

    def free_partitions(self, count: int) -> frozenset[int]:
        """Return the partitions below `count` that nobody has locked. Nothing is locked meanwhile.

        A partition may be locked before this returns.
        """
        ...

    def unlock_partition(self, partition: int) -> None:
        """Unlock a partition. Does nothing if it isn't locked."""
        ...

    def close(self) -> None:
        """Unlock everything, the slot last."""
        ...
