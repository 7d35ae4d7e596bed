"""Files of rows: by volume and day, sorted for questions about blocks, with exact integers."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from archiving import ArchiveWorld, described

from mirrorlog.archive.archive import Archive
from mirrorlog.archive.manifests import ArchivedFile, FileKind, longest_of
from mirrorlog.consumers.archive.row_files import RowFiles

pq = pytest.importorskip("pyarrow.parquet")


def _archived(world: ArchiveWorld, *volumes: str) -> list[ArchivedFile]:
    world.record()
    descriptions = {name: described(name, (1 << 63) - 1) for name in volumes}
    world.archiver(make_rows=RowFiles(descriptions)).run_partition(0)
    (chain,) = Archive(world.store).chains(0)
    return [file for m in chain.manifests for file in m.files_of(FileKind.ROWS)]


def _table(world: ArchiveWorld, file: ArchivedFile) -> Any:
    return pq.read_table(BytesIO(world.store.objects[file.name]))


def test_rows_are_by_volume_and_day_of_the_broker() -> None:
    world = ArchiveWorld()
    world.clock.now_s = 86_400 * 20_000 - 1.0
    world.write("012")
    world.clock.now_s += 1.0
    world.write("012")
    world.write("12")
    files = _archived(world, "012", "12")
    assert [(file.volume, file.day, file.rows) for file in files] == [
        ("012", "2024-10-03", 1),
        ("012", "2024-10-04", 1),
        ("12", "2024-10-04", 1),
    ]
    assert [file.name.split("/")[1] for file in files] == ["012", "012", "12"]
    assert all("=" not in file.name for file in files)
    assert _table(world, files[0]).column("volume").to_pylist() == ["012"]
    assert [str(day) for day in _table(world, files[1]).column("day").to_pylist()] == ["2024-10-04"]


def test_rows_are_sorted_by_offset_and_the_longest_extent_is_kept() -> None:
    world = ArchiveWorld()
    world.write("v", [(1 << 20, 4096), (0, 1 << 21)])
    world.write("v", [(1 << 20, 512)])
    files = _archived(world, "v")
    table = _table(world, files[0])
    assert table.column("offset").to_pylist() == [0, 1 << 20, 1 << 20]
    assert table.column("position").to_pylist() == [0, 0, 1]
    assert longest_of(files) == 1 << 21


def test_the_largest_offsets_are_exact() -> None:
    world = ArchiveWorld()
    largest = (1 << 63) - 513
    world.write("v", [(largest, 512), ((1 << 53) + 1, 1)])
    table = _table(world, _archived(world, "v")[0])
    assert table.column("offset").to_pylist() == [(1 << 53) + 1, largest]


def test_commands_of_unknown_volumes_are_archived_without_rows() -> None:
    world = ArchiveWorld()
    world.write("../up")
    world.write("v")
    assert [file.volume for file in _archived(world, "v")] == ["v"]
    assert world.in_archive() == world.in_topic()


def test_the_same_range_makes_the_same_bytes() -> None:
    contents = []
    for _ in range(2):
        world = ArchiveWorld()
        for number in range(50):
            world.write(f"v{number % 3}", [(number * 512, 512)])
        _archived(world, "v0", "v1", "v2")
        contents.append(dict(world.store.objects.items()))
    assert contents[0] == {name: contents[1][name] for name in contents[0]}
