"""Who has which partitions: evenly, with as little moved as can be, and to where the tables are."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from mirrorlog.streams.faust_worker.assignment import WorkerAssignment, assign_partitions


def parse(text: str) -> dict[str, WorkerAssignment]:
    """`a:0,1/2 b:2/0,1` → a works on 0 and 1 and stands by for 2, b the other way round."""
    found = {}
    for word in text.split():
        name, _, rest = word.partition(":")
        active, _, standby = rest.partition("/")
        found[name] = WorkerAssignment(
            *({int(each) for each in part.split(",") if each} for part in (active, standby))
        )
    return found


def written(shares: dict[str, WorkerAssignment]) -> str:
    words = []
    for name, mine in sorted(shares.items()):
        parts = (",".join(map(str, sorted(part))) for part in (mine.active, mine.standby))
        words.append(f"{name}:{'/'.join(parts)}")
    return " ".join(words)


# partitions, standbys | before | then
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
def test_shares(case: str) -> None:
    numbers, before, expected = (part.strip() for part in case.split("|"))
    partitions, standbys = (int(each) for each in numbers.split())
    assert written(assign_partitions(partitions, parse(before), standbys)) == expected


@pytest.mark.parametrize("seed", range(50))
def test_whoever_comes_and_goes_every_partition_has_one_worker_and_its_standbys(seed: int) -> None:
    random = Random(seed)
    partitions, standbys = random.randint(1, 12), random.randint(0, 2)
    shares: dict[str, WorkerAssignment] = {}
    for step in range(12):
        names = [name for name in shares if random.random() > 0.3] + [f"w{step}"] * random.randint(
            0, 2
        )
        before = {name: shares.get(name, WorkerAssignment()) for name in names or ["w"]}
        shares = assign_partitions(partitions, before, standbys)
        held = sorted(partition for mine in shares.values() for partition in mine.active)
        assert held == list(range(partitions))
        sizes = sorted(len(mine.active) for mine in shares.values())
        assert all(high - low <= 1 for low, high in pairwise((sizes[0], sizes[-1])))
        for partition in range(partitions):
            beside = [mine for mine in shares.values() if partition in mine.standby]
            assert len(beside) == min(standbys, len(shares) - 1)
            assert not any(partition in mine.active for mine in beside)
        assert assign_partitions(partitions, shares, standbys) == shares
