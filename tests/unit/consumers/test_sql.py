"""SQL over archive and topic: rows once each, exact integers, and nothing else can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from archiving import ArchiveWorld, described

from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.archive.archive import Archive
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.archive.merges import MergedFile
from mirrorlog.consumers.archive.row_files import RowFiles
from mirrorlog.consumers.archive.row_merger import RowMerger
from mirrorlog.consumers.sql.archived_files import RowFile, byte_files_for, row_files_for
from mirrorlog.consumers.sql.database import QueryFailed, SqlDatabase
from mirrorlog.consumers.sql.entity_tables import volumes_table
from mirrorlog.consumers.sql.question import SqlQuestion
from mirrorlog.consumers.sql.result_text import csv_lines, json_lines
from mirrorlog.consumers.sql.topic_rows import TopicPorts, topic_part, topic_tables
from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.reading.read_through import ReadPatience

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")

_DAY_S = 86_400.0


VOLUMES = {name: described(name, (1 << 63) - 1, epoch=1) for name in ("12", "012", "v")}


class _FolderStore(FolderArchive):
    """A folder whose objects are the store of a world, as of when it is opened."""

    def __init__(self, world: ArchiveWorld, root: Path) -> None:
        super().__init__(root)
        for name, content in world.store.objects.items():
            if self.size_bytes(name) is None:
                self.create(name, content)


class _Sql:
    """Asks as ask_sql does, in memory, and of a folder."""

    def __init__(self, world: ArchiveWorld, folder: Path) -> None:
        self._world, self._folder, self._count = world, folder, 0
        self.opened: list[RowFile] = []

    def ask(self, query: str, **limits: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        (rows,) = self.ask_each([query], **limits)
        return rows

    def ask_each(self, queries: Sequence[str], **limits: Any) -> list[list[tuple[Any, ...]]]:
        """Return the rows of each query, of one database: most of the time goes into making it."""
        world, question = self._world, SqlQuestion(query=queries[0], **limits)
        topic = world.topics.commands
        archived = ArchivedTopic(Archive(world.store), world.broker.identity(topic))
        patience = ReadPatience(world.clock, 30.0, "reading")
        ports = TopicPorts(world.broker.reader, world.broker, topic, patience, archived)
        part = topic_part(ports, 0)
        self.meanwhile()
        store = _FolderStore(world, self._folder / "archive")
        archived = ArchivedTopic(Archive(store), archived.topic_id)
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        seams = {0: part.archived_through}
        files = list(row_files_for(archived, question, seams, folder))
        byte_files = list(byte_files_for(archived, question, seams, folder))
        database = SqlDatabase(question.memory_bytes, folder)
        try:
            database.add_table("volumes", volumes_table(VOLUMES.values()))
            database.add_topic_rows(topic_tables(ports, part, VOLUMES, question))
            database.add_row_views(files, question.since_us, question.until_us, byte_files)
            database.lock()
            self.opened = byte_files
            return [database.run(query).fetchall() for query in queries]
        finally:
            database.close()

    def meanwhile(self) -> None:
        """Do what others do between the choice of the seam and the reading."""


def _round(world: ArchiveWorld) -> None:
    world.record()
    world.archiver(make_rows=RowFiles(VOLUMES), range_bytes=600).run_partition(0)


def _merge(world: ArchiveWorld, ranges: int) -> None:
    RowMerger(Archive(world.store), ranges=ranges, file_rows=12, group_rows=6).merge_partition(0)


@pytest.fixture(scope="module")
def filled_world() -> ArchiveWorld:
    filled, random = ArchiveWorld(), Random(3)
    for number in range(60):
        filled.clock.now_s += _DAY_S / 20
        filled.write(
            random.choice(("12", "012", "v")),
            [(random.randrange(1 << 20) * 512, 512 << random.randrange(6)) for _ in range(3)],
        )
        if number == 40:
            _round(filled)
    return filled


@pytest.fixture
def world(filled_world: ArchiveWorld) -> ArchiveWorld:
    return deepcopy(filled_world)


@pytest.fixture
def sql(world: ArchiveWorld, tmp_path: Path) -> Iterator[_Sql]:
    yield _Sql(world, tmp_path)


def test_every_row_is_there_once_whatever_the_topic_still_has(
    world: ArchiveWorld, sql: _Sql
) -> None:
    query = "SELECT position, extent FROM writes ORDER BY 1, 2"
    expected = [(position, extent) for position in range(60) for extent in range(3)]
    for first in (0, 20, 41):
        world.broker.trim(world.topics.commands, 0, first)
        assert sql.ask(query) == expected


def test_what_is_archived_while_the_question_is_read_is_not_there_twice(
    world: ArchiveWorld, sql: _Sql
) -> None:
    sql.meanwhile = lambda: _round(world)  # type: ignore[method-assign]
    assert sql.ask("SELECT count(*), count(DISTINCT position) FROM history") == [(180, 60)]


def test_volumes_stay_text_and_large_offsets_exact(world: ArchiveWorld, sql: _Sql) -> None:
    names = sql.ask("SELECT DISTINCT volume FROM writes ORDER BY 1")
    assert names == [("012",), ("12",), ("v",)]
    largest = (1 << 63) - 512
    world.write("v", [(largest, 511)])
    for archive in (False, True):
        if archive:
            _round(world)
        query = 'SELECT "offset"::HUGEINT * 4 + length FROM writes ORDER BY "offset" DESC LIMIT 1'
        assert sql.ask(query) == [(largest * 4 + 511,)]


def test_writes_at_names_the_writes_of_a_byte(world: ArchiveWorld, sql: _Sql) -> None:
    world.write("v", [(0, 1 << 62)])
    _round(world)
    world.write("v", [(4096, 512)])
    asked, plain = list[str](), list[str]()
    for byte in (0, 4095, 4096, 4607, 4608, (1 << 62) - 1, 1 << 62):
        asked.append(f"SELECT position FROM writes_at('v', {byte}) ORDER BY 1")
        plain.append(
            "SELECT position FROM writes WHERE volume = 'v' AND \"offset\" <= "
            f'{byte} AND "offset"::HUGEINT + length > {byte} ORDER BY 1'
        )
    assert sql.ask_each(asked) == sql.ask_each(plain)
    assert [row[0] for row in sql.ask("SELECT position FROM writes_at('v', 4100)")][-2:]


_AT = "SELECT position, extent, host, history_epoch FROM writes_at('v', {}) ORDER BY ALL"


def _byte_questions(sql: _Sql, limits: dict[str, Any]) -> list[Any]:
    queries = [_AT.format(byte) for byte in (0, 511, 4096, 1 << 20, 200 << 20)]
    return sql.ask_each(queries, **limits)


@pytest.mark.parametrize("limits", [{}, {"volumes": ("v",)}, {"since_us": 86_400_000_000}])
def test_merges_change_no_answer_about_a_byte(
    world: ArchiveWorld, sql: _Sql, limits: dict[str, Any]
) -> None:
    random = Random(5)
    for seed in range(3):
        for _ in range(20):
            world.clock.now_s += 3600.0
            place = random.choice((0, 4096, 1 << 20, 200 << 20))
            world.write("v", [(place, 512), (0, 1 << random.randrange(9, 29))])
        if seed < 2:
            _round(world)
    before = _byte_questions(sql, limits)
    assert sum(map(len, before)) > 60
    for ranges in (5, 2, 1):
        _merge(world, ranges)
        assert _byte_questions(sql, limits) == before
    assert any(isinstance(file.file, MergedFile) for file in sql.opened)


def test_what_a_later_history_lost_is_in_no_answer_of_merges(
    world: ArchiveWorld, sql: _Sql
) -> None:
    for number in range(30):
        world.write("v", [(0, 512 + number)])
    _round(world)
    _merge(world, 2)
    world.broker.rewind(world.topics.commands, 0, 75)
    for _ in range(20):
        world.write("v", [(0, 512)])
    world.renew()
    _round(world)
    before = sql.ask(_AT.format(0))
    _merge(world, 2)
    assert sql.ask(_AT.format(0)) == before
    assert {row[3] for row in before if row[0] >= 75} == {2}
    query = "SELECT count(*), count(DISTINCT position) FROM writes_at('v', 0) WHERE position > 59"
    assert sql.ask(query) == [(35, 35)]


def test_only_the_volumes_and_times_of_the_question_are_read(
    world: ArchiveWorld, sql: _Sql
) -> None:
    query = "SELECT DISTINCT volume FROM writes ORDER BY 1"
    assert sql.ask(query, volumes=("*12",)) == [("012",), ("12",)]
    query = "SELECT min(appended_at_us), max(appended_at_us) FROM history"
    since_us, until_us = int(_DAY_S * 1e6), int(2 * _DAY_S * 1e6)
    assert sql.ask(query, since_us=since_us, until_us=until_us) == [(since_us, until_us)]


def test_views_join(sql: _Sql) -> None:
    query = "SELECT count(*) FROM writes JOIN volumes USING (volume) WHERE volumes.size_bytes > 0"
    assert sql.ask(query) == [(180,)]


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '/tmp/mirrorlog-written.csv'",
        "ATTACH '/tmp/mirrorlog-written.db'",
        "SET enable_external_access = true",
        "CREATE TABLE t AS SELECT 1",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/mirrorlog-written.csv'",
        "SELECT 1; SELECT 2",
        "INSTALL httpfs",
        "",
        "SELEC 1",
        "SELECT * FROM nothing",
    ],
)
def test_only_one_select_is_run(sql: _Sql, query: str) -> None:
    with pytest.raises(BadUse):
        sql.ask(query)
    assert not list(Path("/tmp").glob("mirrorlog-written*"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
    ],
)
def test_no_other_file_can_be_read(sql: _Sql, query: str) -> None:
    with pytest.raises((QueryFailed, BadUse)):
        sql.ask(query)


def test_an_archive_of_another_past_of_the_topic_is_refused(world: ArchiveWorld, sql: _Sql) -> None:
    _round(world)
    world.broker.rewind(world.topics.commands, 0, 50)
    for _ in range(20):
        world.write("v")
    with pytest.raises(StateDamaged, match="went back in time"):
        sql.ask("SELECT 1 FROM writes")
    world.renew()
    _round(world)
    query = "SELECT position, count(*) FROM writes GROUP BY 1 HAVING position >= 50 ORDER BY 1"
    assert sql.ask(query) == [(position, 1) for position in range(50, 70)]
    assert sql.ask("SELECT DISTINCT history_epoch FROM writes ORDER BY 1") == [(1,), (2,)]


def test_results_as_text_keep_integers_exact() -> None:
    rows = [((1 << 64) - 1, None, "a,b", float("nan"))]
    assert json_lines(["n", "x", "t", "f"], rows) == (
        '{"n": 18446744073709551615, "x": null, "t": "a,b", "f": null}\n'
    )
    assert csv_lines(rows) == '18446744073709551615,,"a,b",null\n'


@pytest.mark.parametrize(
    ("archived_before", "missing"), [(True, [(4, 9)]), (False, [(-1, 9)])], ids=["hole", "begin"]
)
def test_what_neither_topic_nor_archive_has_is_named(
    archived_before: bool, missing: list[tuple[int, int]]
) -> None:
    world = ArchiveWorld()
    for _ in range(5):
        world.write("v")
    if archived_before:
        _round(world)
    for _ in range(9):
        world.write("v")
    world.broker.trim(world.topics.commands, 0, 10)
    world.record()
    topic = world.topics.commands
    patience = ReadPatience(world.clock, 30.0, "reading")
    archived = ArchivedTopic(Archive(world.store), world.broker.identity(topic))
    ports = TopicPorts(world.broker.reader, world.broker, topic, patience, archived)
    assert topic_part(ports, 0).missing == missing  # before the archive goes on
    world.archiver(accepts_hole=True).run_partition(0)
    world.write("v")
    assert topic_part(ports, 0).missing == missing
    assert topic_part(replace(ports, archived=None), 0).missing == [(-1, 9)]
