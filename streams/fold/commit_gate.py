"""What may be committed: the offsets whose log records are acknowledged, and no other (invariant 2).

Faust commits what its streams acknowledged, and a stream acknowledges more than was processed: when an agent dies, when a
message of an older assignment is skipped, in a `finally` after an exception. So acknowledgements aren't what decides
here: the consumer asks this gate, and the gate moves only when a flush is durable (docs/decisions/commit-gate.md).
"""

from __future__ import annotations

from collections.abc import Iterable


class CommitGate:
    """By partition of the commands topic, the first position that isn't in the log yet."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._next: dict[int, int] = {}

    def assign(self, partition: int, position: int) -> None:
        """The partition was assigned, and its commands are folded from `position` on: the first that its group hasn't
        committed, or one before it."""
        self._next[partition] = position

    def is_assigned(self, partition: int) -> bool:
        """Whether `begin` was called since the partition was assigned."""
        return partition in self._next

    def revoke(self, partitions: Iterable[int]) -> None:
        """The partitions went to another worker, or come back and begin anew."""
        for partition in partitions:
            self._next.pop(partition, None)

    def expected_position(self, partition: int) -> int:
        """The position that the partition's next flush must begin at, or below: what lies between would be passed over."""
        return self._next[partition]

    def mark_durable(self, partition: int, through: int) -> None:
        """The log is complete through `through`: everything up to it may be committed."""
        if partition in self._next:
            self._next[partition] = max(self._next[partition], through + 1)

    def committable_offset(self, partition: int) -> int | None:
        """The offset to commit; None where the partition isn't this worker's."""
        return self._next.get(partition)
