"""ask_sql(): a query over archive and topic.

Only what the query names is read: rows if it has the word `writes`, `history` or `writes_at`, the
log if it has `records`, reports if it has `sites`. Of rows, only the volumes and times of the
question. Conditions in the query itself choose row groups of the archive's files, by their
statistics; they don't choose files, and what comes from the topic is read whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from mirrorlog.changed.ask import query_ports
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.sql.archived_files import RowFile, byte_files_for, row_files_for
from mirrorlog.consumers.sql.database import SqlDatabase
from mirrorlog.consumers.sql.entity_tables import records_table, sites_table, volumes_table
from mirrorlog.consumers.sql.question import ROW_VIEWS, SqlQuestion
from mirrorlog.consumers.sql.topic_rows import TopicPorts, topic_part, topic_tables
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.extras import require_module
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.records import LogRecord


@contextmanager
def ask_sql(
    settings: Settings,
    question: SqlQuestion,
    read_records: Callable[[int], list[LogRecord]],
    on_missing: Callable[[int, tuple[int, int]], None],
    patience_s: float = 30.0,
) -> Iterator[tuple[SqlDatabase, Any]]:
    """Yield the database and the result of a query; close both at the end.

    read_records: returns the records of a partition. on_missing: called with a partition and a
    range (after, through] of positions that nobody keeps: their rows aren't in the views.

    Raise BadUse for a query that isn't one SELECT, and without the extra `archive`; QueryFailed,
    StateDamaged, ArchiveFailed, KafkaFailed.
    """
    for module in ("duckdb", "pyarrow"):
        require_module(module, extra="archive", purpose="`mirrorlog sql`")
    if settings.kafka_mirror_of:
        raise BadUse(
            "a mirror keeps no positions of the commands, so it has no history to ask",
            next="Ask the cluster that it mirrors.",
        )
    with ExitStack() as opened:
        ports = opened.enter_context(query_ports(settings, patience_s))
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="mirrorlog-sql-")))
        for name in ("spilled", "fetched"):
            (folder / name).mkdir()
        database = opened.enter_context(
            closing(SqlDatabase(question.memory_bytes, folder / "spilled"))
        )
        ports.catalog.refresh()
        volumes = dict(ports.catalog)
        _add_entities(database, ports, question, volumes, read_records, patience_s)
        if question.names(*ROW_VIEWS):
            patience = ReadPatience(ports.clock, patience_s, "reading commands")
            reads = TopicPorts(
                ports.open_reader, ports.admin, ports.topics.commands, patience, ports.archived
            )
            _add_rows(database, reads, question, volumes, folder / "fetched", on_missing)
        database.lock()
        yield database, database.run(question.query)


def _add_entities(
    database: SqlDatabase,
    ports: QueryPorts,
    question: SqlQuestion,
    volumes: Mapping[str, Volume],
    read_records: Callable[[int], list[LogRecord]],
    patience_s: float,
) -> None:
    database.add_table("volumes", volumes_table(volumes.values()))
    if question.names("sites"):
        with closing(ports.open_reader()) as reader:
            reports = SiteReports(reader, ports.admin, ports.topics, ports.clock, patience_s)
            reports.refresh()
            database.add_table(
                "sites",
                sites_table(report for name in volumes for report in reports.of(name)),
            )
    if question.names("records"):
        partitions = sorted({volume.partition for volume in volumes.values()})
        records = [record for number in partitions for record in read_records(number)]
        database.add_table("records", records_table(records))


def _add_rows(
    database: SqlDatabase,
    reads: TopicPorts,
    question: SqlQuestion,
    volumes: Mapping[str, Volume],
    fetched: Path,
    on_missing: Callable[[int, tuple[int, int]], None],
) -> None:
    """Add the rows of archive and topic. What is archived meanwhile is read from the topic."""
    wanted = {v.partition for name, v in volumes.items() if question.is_wanted(name)}
    parts = [topic_part(reads, partition) for partition in sorted(wanted)]
    files, byte_files = list[RowFile](), list[RowFile]()
    if reads.archived is not None:
        seams = {part.partition: part.archived_through for part in parts}
        chosen = reads.archived, question, seams, fetched
        if question.names("writes", "history"):
            files = list(row_files_for(*chosen))
        if question.names("writes_at"):
            byte_files = list(byte_files_for(*chosen))
    for part in parts:
        for positions in part.missing:
            on_missing(part.partition, positions)
    database.add_topic_rows(
        table for part in parts for table in topic_tables(reads, part, volumes, question)
    )
    database.add_row_views(files, question.since_us, question.until_us, byte_files)
