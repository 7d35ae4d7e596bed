"""Partitions are assigned evenly, few of them move, and they move to where their tables are."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from mirrorlog.streams.faust_worker.assignment import WorkerAssignment, assign_partitions


def parse(text: str) -> dict[str, WorkerAssignment]:
    """Parse assignments.

    In `a:0,1/2 b:2/0,1`, a works on 0 and 1 and is the standby of 2; b is the reverse.
    """
    assignments = {}
    for word in text.split():
        name, _, rest = word.partition(":")
        active, _, standby = rest.partition("/")
        assignments[name] = WorkerAssignment(
            *({int(number) for number in part.split(",") if number} for part in (active, standby))
        )
    return assignments


def formatted(assignments: dict[str, WorkerAssignment]) -> str:
    words = []
    for name, worker in sorted(assignments.items()):
        parts = (",".join(map(str, sorted(part))) for part in (worker.active, worker.standby))
        words.append(f"{name}:{'/'.join(parts)}")
    return " ".join(words)


# partitions, standbys | the assignment before | the assignment after
CASES = """
4 1 | a:                        | a:0,1,2,3/
4 1 | a:0,1,2,3/ b:             | a:0,1/2,3 b:2,3/0,1
4 1 | a:0,1/2,3 b:2,3/0,1 c:    | a:0,1/2,3 b:2/0,1 c:3/
4 1 | b:2/0,1 c:3/2             | b:0,2/1,3 c:1,3/0,2
4 1 | a:0,1/3 c:3/2             | a:0,1/2,3 c:2,3/0,1
4 0 | a:0,1,2,3/ b: c:          | a:0,1/ b:2/ c:3/
2 1 | a:0/1 b:1/0 c:            | a:0/1 b:1/0 c:/
3 2 | a:0,1,2/ b: c:            | a:0/1,2 b:1/0,2 c:2/0,1
4 1 | a:0,1/2,3 b:1,2/0,3       | a:0,1/2,3 b:2,3/0,1
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_the_new_assignment(case: str) -> None:
    numbers, before, expected = (part.strip() for part in case.split("|"))
    partitions, standbys = (int(number) for number in numbers.split())
    assert formatted(assign_partitions(partitions, parse(before), standbys)) == expected


@pytest.mark.parametrize("seed", range(50))
def test_each_partition_has_one_worker_and_its_standbys_whichever_workers_come_and_go(
    seed: int,
) -> None:
    random = Random(seed)
    partitions, standbys = random.randint(1, 12), random.randint(0, 2)
    assignments: dict[str, WorkerAssignment] = {}
    for step in range(12):
        names = [name for name in assignments if random.random() > 0.3] + [
            f"w{step}"
        ] * random.randint(0, 2)
        before = {name: assignments.get(name, WorkerAssignment()) for name in names or ["w"]}
        assignments = assign_partitions(partitions, before, standbys)
        held = sorted(partition for worker in assignments.values() for partition in worker.active)
        assert held == list(range(partitions))
        sizes = sorted(len(worker.active) for worker in assignments.values())
        assert all(high - low <= 1 for low, high in pairwise((sizes[0], sizes[-1])))
        for partition in range(partitions):
            standing_by = [worker for worker in assignments.values() if partition in worker.standby]
            assert len(standing_by) == min(standbys, len(assignments) - 1)
            assert not any(partition in worker.active for worker in standing_by)
        assert assign_partitions(partitions, assignments, standbys) == assignments
