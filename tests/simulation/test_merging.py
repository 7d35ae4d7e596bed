"""Mergers that are killed, stores that fail, two mergers at once: each row is merged once."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from random import Random
from typing import Any

import pytest
from archiving import ArchiveWorld, described

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.manifests import FileKind
from mirrorlog.consumers.archive.row_files import RowFiles
from mirrorlog.consumers.archive.row_merger import RowMerger
from mirrorlog.consumers.archive.verify import verify_archive
from mirrorlog.errors import ArchiveFailed, StateDamaged

pq = pytest.importorskip("pyarrow.parquet")
RANGES = 3


class Killed(BaseException):
    """The end of a process, which no `except Exception` sees."""


def _world(seed: int = 0) -> ArchiveWorld:
    world, random = ArchiveWorld(), Random(seed)
    volumes = {name: described(name) for name in ("a", "b")}
    for number in range(30):
        world.clock.now_s += 3600.0
        world.write("ab"[number % 2], [(random.randrange(9) * 4096, 4096) for _ in range(2)])
    world.record()
    world.archiver(make_rows=RowFiles(volumes), range_bytes=300).run_partition(0)
    return world


def _merge(world: ArchiveWorld, ranges: int = RANGES) -> int:
    merger = RowMerger(Archive(world.store), ranges=ranges, file_rows=3, group_rows=3)
    return merger.merge_partition(0)


def _rows(world: ArchiveWorld, names: list[str]) -> list[tuple[Any, ...]]:
    rows = list[tuple[Any, ...]]()
    for name in names:
        rows += _rows_of(world.store.objects[name])
    return sorted(rows)


@lru_cache(maxsize=1024)
def _rows_of(content: bytes) -> list[tuple[Any, ...]]:
    """Return the rows of a file. Whatever the step, most files are the same."""
    table = pq.read_table(BytesIO(content))
    return [tuple(str(value) for value in row.values()) for row in table.to_pylist()]


class _Seen:
    """The contents that stores have had."""

    def __init__(self) -> None:
        self._contents = set[frozenset[tuple[str, bytes]]]()

    def is_new(self, world: ArchiveWorld) -> bool:
        """Return whether no store had all that this one has, and nothing else."""
        before = len(self._contents)
        self._contents.add(frozenset(world.store.objects.items()))
        return len(self._contents) > before


def _check(world: ArchiveWorld) -> None:
    """Everything of whole groups of ranges is merged, once, and `archive verify` agrees."""
    (merged,) = Archive(world.store).merged_chains(0)
    (chain,) = Archive(world.store).chains(0)
    assert len(merged.merges) == len(chain.stored) // RANGES > 2
    sources = [
        file.name
        for manifest in chain.manifests
        if manifest.after < merged.merged_through
        for file in manifest.files_of(FileKind.ROWS)
    ]
    files = [file.name for merge in merged.merges for file in merge.files]
    assert _rows(world, files) == _rows(world, sources)
    assert len(files) > len(merged.merges) * 2  # more than one of a volume
    list(verify_archive(Archive(world.store)))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "error", [Killed(), ArchiveFailed("the disk is full")], ids=["kill", "failure"]
)
def test_whichever_step_is_the_last_the_next_run_completes_the_merges(
    error: BaseException, after: bool
) -> None:
    made, at, was_reached = _world(), 0, True
    objects = dict(made.store.objects)
    completed, checked = _Seen(), _Seen()
    while was_reached:
        at, world, was_reached = at + 1, made, False
        world.store.objects = dict(objects)
        steps = iter(range(1, 1 << 30))

        def end_at(step: str, name: str, at: int = at, steps: Any = steps) -> None:
            if next(steps) == at:
                raise error

        setattr(world.store, "after" if after else "before", end_at)
        try:
            _merge(world)
        except (Killed, ArchiveFailed):
            was_reached = True
        world.store.before = world.store.after = lambda step, name: None
        # A new merger knows what is stored and nothing else, so of equal states one is enough.
        if completed.is_new(world):
            _merge(world)
            if checked.is_new(world):
                _check(world)
    assert at > 10


def test_two_mergers_at_once_write_each_merge_once() -> None:
    lost = 0
    for seed in range(12):
        world, random = _world(seed), Random(seed)

        def other_runs(step: str, name: str, world: Any = world, random: Any = random) -> None:
            if random.random() < 0.2:
                before, world.store.before = world.store.before, lambda step, name: None
                _merge(world)
                world.store.before = before

        world.store.before = other_runs
        written = _merge(world)
        world.store.before = lambda step, name: None
        lost += written < len(Archive(world.store).merged_chains(0)[0].merges)
        _check(world)
    assert lost > 3  # the races did happen


def test_a_file_of_rows_that_is_damaged_is_not_merged() -> None:
    world = _world()
    (chain,) = Archive(world.store).chains(0)
    file = chain.last.files_of(FileKind.ROWS)[0]
    first = next(iter(chain.manifests)).files_of(FileKind.ROWS)[0]
    world.store.flip_bit(first.name, 900)
    before = dict(world.store.objects)
    with pytest.raises(StateDamaged, match="SHA-256") as caught:
        _merge(world)
    assert first.name in caught.value.where and file.name != first.name
    assert world.store.objects == before


def test_a_merger_that_is_stopped_writes_no_merge() -> None:
    world = _world()
    looks = iter(range(1 << 30))
    merger = RowMerger(
        Archive(world.store), lambda: next(looks) > 1, ranges=RANGES, file_rows=3, group_rows=3
    )
    assert merger.merge_partition(0) == 0
    assert not [name for name in world.store.objects if name.startswith("merges/")]
    _merge(world)
    _check(world)
