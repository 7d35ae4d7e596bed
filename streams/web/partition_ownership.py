"""Which partitions this worker may answer for, and which worker has the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from mirrorlog.errors import NodeUnavailable


class PartitionOwnership:
    """The partitions that this worker owns and whose tables are complete.

    It owns them from the end of their recovery until the next rebalance begins. A standby's copy
    may be incomplete, and belongs to no owner. Whoever reads a table must check again and again
    that the partition is still owned: when the partition comes back, the engine can't open its
    table before the last reader has released it.

    read_owners: returns the address of each partition's worker, as the group's assignment tells it.
    """

    def __init__(self, read_owners: Callable[[], Mapping[int, str]] = dict) -> None:
        self._read_owners = read_owners
        self._partitions: frozenset[int] = frozenset()
        self._epoch = 0
        self._is_settled = False

    def assign(self, partitions: Iterable[int]) -> None:
        """Own these partitions from now on: their recovery is done."""
        self._partitions, self._is_settled = frozenset(partitions), True
        self._epoch += 1

    def revoke(self) -> None:
        """Own nothing from now on: a rebalance begins."""
        self._partitions, self._is_settled = frozenset(), False
        self._epoch += 1

    @property
    def is_settled(self) -> bool:
        """Return whether the worker is neither recovering nor in a rebalance."""
        return self._is_settled

    @property
    def partitions(self) -> list[int]:
        """The partitions that this worker may answer for, in order."""
        return sorted(self._partitions)

    def owners(self) -> dict[int, str]:
        """Return the address of the worker that has each partition, as the group knows it.

        Workers that don't answer over HTTP are left out.
        """
        return {
            partition: url
            for partition, url in self._read_owners().items()
            if url.startswith(("http://", "https://"))
        }

    def check_for(self, partition: int) -> Callable[[], None] | None:
        """Return a check that raises NodeUnavailable once the partition may have moved.

        Return None if this worker doesn't own the partition. The check may be called from any
        thread.
        """
        if partition not in self._partitions:
            return None
        epoch = self._epoch

        def check() -> None:
            if self._epoch != epoch:
                raise NodeUnavailable(
                    "the partition is being moved to another worker",
                    where=f"partition {partition}",
                    next="Ask again in a moment.",
                )

        return check


class OwnershipListener:
    """Keeps `ownership` up to date with the engine (engine.PartitionListener)."""

    def __init__(self, ownership: PartitionOwnership) -> None:
        self._ownership = ownership

    def release(self, partitions: Collection[int]) -> None:
        """Own nothing from now on, whichever `partitions` move: any rebalance begins so."""
        del partitions
        self._ownership.revoke()

    async def start(self, partitions: Sequence[int]) -> None:
        """Own the worker's partitions: their tables are complete."""
        self._ownership.assign(partitions)

    def stop(self) -> None:
        """Do nothing: questions are answered until the HTTP server stops."""
