"""The database that a query sees: views of rows and tables, and no file of this machine.

1. A database in memory is opened, with a limit of memory and without extensions.
2. The tables are made of what was read, and the views over them and over the archive's files.
3. The files of the archive that were chosen are allowed by name. All other access to files and to
   the network is switched off, and the configuration is locked.
4. One statement is run, if it is a SELECT: none that writes, attaches or sets anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from mirrorlog.archive.manifests import longest_of
from mirrorlog.consumers.sql.archived_files import RowFile
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.extras import require_module
from mirrorlog.history.arrow_tables import arrow_schema
from mirrorlog.history.definition import CHANGES

_TOPIC_ROWS: Final = "topic_rows"
_TIMES: Final = ("appended", "first", "last")


class QueryFailed(MirrorlogError):
    """DuckDB ran the query, and it failed."""


class SqlDatabase:
    """One database. Close it.

    memory_bytes: its limit. folder: an empty folder, for what doesn't fit into memory.
    """

    def __init__(self, memory_bytes: int, folder: Path, threads: int = 2) -> None:
        self._duckdb = require_module("duckdb", extra="archive", purpose="`mirrorlog sql`")
        self._database = self._duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{max(memory_bytes >> 20, 64)}MiB",
                "threads": threads,
                "temp_directory": str(folder),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "python_enable_replacements": False,
            },
        )
        self._files: list[RowFile] = []

    def add_table(self, name: str, table: Any) -> None:
        """Add a table (pyarrow.Table)."""
        self._execute_with(table, f'CREATE TABLE "{name}" AS SELECT * FROM given')

    def add_topic_rows(self, tables: Iterable[Any]) -> None:
        """Add rows that come from the topic, a table at a time."""
        self.add_table(_TOPIC_ROWS, _no_rows())
        for table in tables:
            self._execute_with(table, f"INSERT INTO {_TOPIC_ROWS} SELECT * FROM given")

    def _execute_with(self, table: Any, statement: str) -> None:
        """Execute a statement that reads a table (pyarrow.Table) as `given`."""
        self._database.register("given", table)
        self._database.execute(statement)
        self._database.unregister("given")

    def add_row_views(
        self, files: Sequence[RowFile], since_us: int | None, until_us: int | None
    ) -> None:
        """Make the views of rows, over files of the archive and the rows from the topic.

        since_us, until_us: only rows that were appended between them count; None: no limit.
        """
        self._files = list(files)
        sources = [f"SELECT * FROM {_TOPIC_ROWS}"]
        whole = [file.path for file in files if file.through is None]
        if whole:
            sources.append(f"SELECT * FROM {_read(whole)}")
        for through in sorted({file.through for file in files if file.through is not None}):
            clipped = [file.path for file in files if file.through == through]
            sources.append(f"SELECT * FROM {_read(clipped)} WHERE position <= {through}")
        limits = [
            f"appended_at_us {sign} {limit}"
            for sign, limit in ((">=", since_us), ("<=", until_us))
            if limit is not None
        ]
        where = f" WHERE {' AND '.join(limits)}" if limits else ""
        times = "".join(f", make_timestamp({name}_at_us) AS {name}_at" for name in _TIMES)
        union = " UNION ALL BY NAME ".join(sources)
        changes = ", ".join(f"'{kind.value}'" for kind in CHANGES)
        self._database.execute(f"CREATE VIEW history AS SELECT *{times} FROM ({union}){where}")
        self._database.execute(
            f"CREATE VIEW writes AS SELECT * FROM history WHERE kind IN ({changes})"
        )
        self._add_writes_at()

    def _add_writes_at(self) -> None:
        """Make writes_at(volume, byte): the writes of one byte, read from few row groups.

        An extent that holds the byte begins at it at the latest, and before it by less than the
        longest extent there is.
        """
        (in_topic,) = self._database.execute(
            f"SELECT coalesce(max(length), 0) FROM {_TOPIC_ROWS}"
        ).fetchone()
        longest = max(int(in_topic), longest_of(file.file for file in self._files))
        self._database.execute(
            "CREATE MACRO writes_at(of_volume, byte) AS TABLE SELECT * FROM writes "
            'WHERE volume = of_volume AND "offset" <= byte '
            f'AND "offset" >= greatest(byte::HUGEINT - {longest}, 0)::UBIGINT '
            'AND "offset"::HUGEINT + length > byte'
        )

    def lock(self) -> None:
        """Switch off what a query doesn't need (step 3)."""
        paths = ", ".join(_quoted(str(file.path)) for file in self._files)
        self._database.execute(f"SET allowed_paths = [{paths}]")
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")

    def run(self, query: str) -> Any:
        """Run a query; return its result (duckdb's, with description, fetchmany and fetch_record_
        batch). Raise BadUse if it isn't one SELECT or can't be understood, QueryFailed if it fails.
        """
        duckdb = self._duckdb
        try:
            statements = self._database.extract_statements(query)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise BadUse(
                    "only one SELECT can be asked",
                    where=query[:200],
                    next="The data can't be changed: `--output` writes a result to a file.",
                )
            return self._database.execute(query)
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise BadUse(
                f"the query can't be understood: {_first_line(error)}",
                where=query[:200],
                next="The views are writes, history, volumes, sites and records (docs/archive.md).",
            ) from error
        except duckdb.Error as error:
            raise query_failed(error) from error

    @property
    def error_type(self) -> type[Exception]:
        """The class of DuckDB's errors, which reading a result raises."""
        kind: type[Exception] = self._duckdb.Error
        return kind

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def query_failed(error: Exception) -> QueryFailed:
    """Return DuckDB's error as one of ours."""
    return QueryFailed(
        f"the query failed: {_first_line(error)}",
        next="Ask for less (`--volumes`, `--since`), or give it more memory (`--memory`).",
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]


def _read(paths: Sequence[Path]) -> str:
    names = ", ".join(_quoted(str(path)) for path in paths)
    return f"read_parquet([{names}], hive_partitioning = false, union_by_name = true)"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _no_rows() -> Any:
    """Return a table without rows, with the columns of the files."""
    pa = require_module("pyarrow", extra="archive", purpose="`mirrorlog sql`")
    schema = arrow_schema()
    schema = schema.append(pa.field("day", pa.date32())).append(
        pa.field("history_epoch", pa.int32())
    )
    return schema.empty_table()
