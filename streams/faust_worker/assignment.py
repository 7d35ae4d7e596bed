"""Which worker works on which partitions, and which others keep a standby copy of their tables.

Faust's assignor, if there are standbys, moves a partition to a new worker only when another worker
has too many: of four partitions a third worker gets none. Here the workers have equally many, give
or take one (docs/decisions/recovery.md).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor

from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.partition_counts import check_unchanged


@dataclass(slots=True)
class WorkerAssignment:
    """The partitions that a worker works on (`active`) and those it has a copy of (`standby`)."""

    active: set[int] = field(default_factory=set)
    standby: set[int] = field(default_factory=set)


def assign_partitions(
    partitions: int, previous: Mapping[str, WorkerAssignment], standbys: int
) -> dict[str, WorkerAssignment]:
    """Return the new assignment of every worker, by its name. Pure, and the same on every worker.

    partitions: how many partitions there are; their numbers begin at 0.
    previous:   what each worker of the group has now; at least one worker.
    standbys:   how many other workers keep a copy of each partition, as far as there are others.

    1. A worker keeps the partitions that it works on, up to its quota: all quotas are equal, give
       or take one.
    2. A partition without a worker goes to one that is its standby and has room: it has the table.
    3. What is left goes to the workers with the most room.
    4. Each partition gets its standbys: first those that have its table, as standby or as worker.
    """
    names = sorted(previous, key=lambda name: (-len(previous[name].active), name))
    least, extra = divmod(partitions, len(names))
    assigned = {name: WorkerAssignment() for name in names}
    quota = {name: least + (number < extra) for number, name in enumerate(names)}
    unassigned = set(range(partitions))

    def assign(name: str, partition: int) -> None:
        if partition in unassigned and len(assigned[name].active) < quota[name]:
            assigned[name].active.add(partition)
            unassigned.discard(partition)

    for name in names:  # 1
        for partition in sorted(previous[name].active):
            assign(name, partition)
    for partition in sorted(unassigned):  # 2
        for name in _previous_standbys(partition, previous, assigned):
            assign(name, partition)
    for partition in sorted(unassigned):  # 3
        assign(max(names, key=lambda name: quota[name] - len(assigned[name].active)), partition)
    for partition in range(partitions):  # 4
        for name in _standby_candidates(partition, previous, assigned)[:standbys]:
            assigned[name].standby.add(partition)
    return assigned


def _previous_standbys(
    partition: int,
    previous: Mapping[str, WorkerAssignment],
    assigned: Mapping[str, WorkerAssignment],
) -> list[str]:
    """Return the workers that were standbys of the partition, those with the least work first."""
    return sorted(
        (name for name, worker in previous.items() if partition in worker.standby),
        key=lambda name: len(assigned[name].active),
    )


def _standby_candidates(
    partition: int,
    previous: Mapping[str, WorkerAssignment],
    assigned: Mapping[str, WorkerAssignment],
) -> list[str]:
    """Return the workers that don't work on the partition, the best standby first."""
    others = [name for name, worker in assigned.items() if partition not in worker.active]
    return sorted(
        others,
        key=lambda name: (
            not _has_table(previous[name], partition),
            len(assigned[name].standby),
        ),
    )


def _has_table(worker: WorkerAssignment, partition: int) -> bool:
    return partition in worker.standby or partition in worker.active


class EvenAssignor(PartitionAssignor):
    """Faust's assignor, which chooses by `assign_partitions`.

    All topics that the app reads have equally many partitions: those that it started with.
    Otherwise the process ends (`ChangelogTableManager.abort`).
    """

    _previous: Mapping[str, Any] = {}

    def __init__(self, app: Any, replicas: int = 0) -> None:
        super().__init__(app, replicas=0)
        self._standbys = replicas

    def _update_member_urls(self, clients_metadata: MutableMapping[str, Any]) -> None:
        super()._update_member_urls(clients_metadata)
        self._previous = {
            member: metadata.assignment for member, metadata in clients_metadata.items()
        }

    def _global_table_standby_assignments(
        self, _chosen: Mapping[str, ClientAssignment], partitions_by_topic: Mapping[str, int]
    ) -> dict[str, ClientAssignment]:
        """Replace Faust's choice. This is its last step before the members get the assignment."""
        (changelog,) = self._table_manager.changelog_topics
        try:
            partitions = check_unchanged(partitions_by_topic, self.app.conf.topic_partitions)
        except KafkaFailed as error:
            manager: Any = self._table_manager
            manager.abort(error)
            raise
        previous = {
            member: WorkerAssignment(
                set(reported.actives.get(changelog, ())), set(reported.standbys.get(changelog, ()))
            )
            for member, reported in self._previous.items()
        }
        return {
            member: ClientAssignment(
                actives={topic: sorted(worker.active) for topic in partitions_by_topic},
                standbys={changelog: sorted(worker.standby)},
            )
            for member, worker in assign_partitions(partitions, previous, self._standbys).items()
        }
