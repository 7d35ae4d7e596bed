"""Which worker has which partitions, and which others stand by for them.

Faust's assignor, where there are standbys, moves a partition to a new worker only when another has too many: with four
partitions a third worker gets nothing. Here all have equally many, give or take one (docs/decisions/recovery.md).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor


@dataclass(slots=True)
class WorkerAssignment:
    """A worker's partitions: those that it works on, and those that it stands by for."""

    active: set[int] = field(default_factory=set)
    standby: set[int] = field(default_factory=set)


def assign_partitions(
    partitions: int, before: Mapping[str, WorkerAssignment], standbys: int
) -> dict[str, WorkerAssignment]:
    """The shares of the workers that are there now; `before`: what each says that it has. Pure, the same for all.

    1. Who works on a partition goes on, up to its part: equally many for all, give or take one.
    2. A partition without a worker goes to one that stood by for it, if it has room: its table is there.
    3. What is left goes to those who have the fewest.
    4. `standbys` others stand by for each: first those whose table is there, who stood by or worked on it.
    """
    names = sorted(before, key=lambda name: (-len(before[name].active), name))
    least, more = divmod(partitions, len(names))
    found = {name: WorkerAssignment() for name in names}
    room = {name: least + (number < more) for number, name in enumerate(names)}
    free = set(range(partitions))

    def take(name: str, partition: int) -> None:
        if partition in free and len(found[name].active) < room[name]:
            found[name].active.add(partition)
            free.discard(partition)

    for name in names:  # 1
        for partition in sorted(before[name].active):
            take(name, partition)
    for partition in sorted(free):  # 2
        for name in _who_stood_by(partition, before, found):
            take(name, partition)
    for partition in sorted(free):  # 3
        take(max(names, key=lambda name: room[name] - len(found[name].active)), partition)
    for partition in range(partitions):  # 4
        for name in _best_standbys(partition, before, found)[:standbys]:
            found[name].standby.add(partition)
    return found


def _who_stood_by(
    partition: int, before: Mapping[str, WorkerAssignment], found: Mapping[str, WorkerAssignment]
) -> list[str]:
    return sorted(
        (n for n, mine in before.items() if partition in mine.standby),
        key=lambda n: len(found[n].active),
    )


def _best_standbys(
    partition: int, before: Mapping[str, WorkerAssignment], found: Mapping[str, WorkerAssignment]
) -> list[str]:
    others = [name for name, mine in found.items() if partition not in mine.active]
    return sorted(
        others, key=lambda name: (not _has_table(before[name], partition), len(found[name].standby))
    )


def _has_table(before: WorkerAssignment, partition: int) -> bool:
    return partition in before.standby or partition in before.active


class EvenAssignor(PartitionAssignor):
    """Faust's assignor with `assign_partitions` in the place of its choice. All its topics have equally many partitions."""

    _before: Mapping[str, Any] = {}

    def __init__(self, app: Any, replicas: int = 0) -> None:
        super().__init__(app, replicas=0)
        self._wanted_standbys = replicas

    def _update_member_urls(self, clients_metadata: MutableMapping[str, Any]) -> None:
        super()._update_member_urls(clients_metadata)
        self._before = {
            member: metadata.assignment for member, metadata in clients_metadata.items()
        }

    def _global_table_standby_assignments(
        self, _chosen: Mapping[str, ClientAssignment], partitions_by_topic: Mapping[str, int]
    ) -> dict[str, ClientAssignment]:
        """The last word before the assignment is told to the members."""
        (tables,) = self._table_manager.changelog_topics
        (count,) = set(partitions_by_topic.values())
        before = {
            member: WorkerAssignment(
                set(told.actives.get(tables, ())), set(told.standbys.get(tables, ()))
            )
            for member, told in self._before.items()
        }
        return {
            member: ClientAssignment(
                actives={topic: sorted(mine.active) for topic in partitions_by_topic},
                standbys={tables: sorted(mine.standby)},
            )
            for member, mine in assign_partitions(count, before, self._wanted_standbys).items()
        }
