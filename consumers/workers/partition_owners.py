"""Which worker should work for which partition: a pure function of the slots that are locked.

Every worker computes it for itself. Two that disagree for a moment do no harm: the lock of a
partition decides who works for it (worker_locks.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection


def partition_owners(partition_count: int, slots: Collection[int]) -> list[int]:
    """Return the slot of the worker that should work for each partition, by partition.

    slots: of the workers that live; there is at least one. Any two of them get equally many
    partitions, or one has one more. When the worker of the highest slot joins or leaves, or when
    one leaves while all lower slots than the highest are locked, no partition moves between the
    others.

    1. The partitions are dealt to the slots from 0 through the highest one: each slot, in turn,
       takes its part from those before it.
    2. What was dealt to a slot that nobody has locked goes to those that have the fewest.
    """
    live = sorted(slots)
    owners = _dealt(partition_count, live[-1] + 1)
    counts = Counter({slot: owners.count(slot) for slot in live})
    orphans = sorted(
        (partition for partition, slot in enumerate(owners) if slot not in counts),
        key=lambda partition: (owners[partition], partition),
    )
    for partition in orphans:
        slot = min(live, key=lambda slot: (counts[slot], slot))
        owners[partition] = slot
        counts[slot] += 1
    return owners


def _dealt(partition_count: int, slot_count: int) -> list[int]:
    """Return the owners if all slots below `slot_count` are locked."""
    held = [list(range(partition_count))]
    for slot in range(1, slot_count):
        taken = []
        for _ in range(partition_count // (slot + 1)):
            richest = max(held, key=len)
            taken.append(richest.pop())
        held.append(sorted(taken))
    owners = [0] * partition_count
    for slot, partitions in enumerate(held):
        for partition in partitions:
            owners[partition] = slot
    return owners
