"""CommitGate: which source offsets may be committed (invariant 2).

Faust commits what its streams acknowledged, and a stream acknowledges more than was processed: when
an agent dies, when a message of an older assignment is skipped, in a `finally` after an exception.
So acknowledgements don't decide what is committed. The consumer asks this gate, and the gate
advances only when a flush is durable (docs/decisions/commit-gate.md).
"""

from __future__ import annotations

from collections.abc import Iterable


class CommitGate:
    """For each assigned partition of the commands topic, the first position not yet in the log."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._next: dict[int, int] = {}

    def assign(self, partition: int, *, position: int) -> None:
        """Start the partition at `position`, the first one to fold.

        That is the first position that the group hasn't committed, or one before it.
        """
        self._next[partition] = position

    def is_assigned(self, partition: int) -> bool:
        """Return whether `assign` was called for the partition since it was last revoked."""
        return partition in self._next

    def revoke(self, partitions: Iterable[int]) -> None:
        """Forget partitions that another worker has now, or that are assigned again later."""
        for partition in partitions:
            self._next.pop(partition, None)

    def expected_position(self, partition: int) -> int:
        """Return the position at which the partition's next flush must begin, or below which.

        A flush that begins above it would skip the positions between. Raise KeyError unless
        assigned.
        """
        return self._next[partition]

    def mark_durable(self, partition: int, *, through: int) -> None:
        """Allow offsets through position `through` to be committed: the log is complete there.

        The gate never moves back, and ignores a partition that isn't assigned (a late flush).
        """
        if partition in self._next:
            self._next[partition] = max(self._next[partition], through + 1)

    def committable_offset(self, partition: int) -> int | None:
        """Return the offset to commit, None if the partition isn't assigned to this worker."""
        return self._next.get(partition)
