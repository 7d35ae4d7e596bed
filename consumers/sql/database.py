"""The database that a query sees: views of rows and tables, and no file of this machine.

1. A database in memory is opened, with a limit of memory and without extensions.
2. The tables are made of what was read, and the views over them and over the archive's files.
3. The files of the archive that were chosen are allowed by name; merged ones by their folder,
   because there are thousands. All other access to files and to the network is switched off, and
   the configuration is locked.
4. One statement is run, if it is a SELECT: none that writes, attaches or sets anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from mirrorlog.archive.manifests import longest_of
from mirrorlog.archive.merges import MergedFile, bytes_named
from mirrorlog.archive.names import MERGED
from mirrorlog.consumers.sql.archived_files import RowFile
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.extras import require_module
from mirrorlog.history.arrow_tables import arrow_schema
from mirrorlog.history.definition import CHANGES

_TOPIC_ROWS: Final = "topic_rows"
_TIMES: Final = "".join(
    f", make_timestamp({name}_at_us) AS {name}_at" for name in ("appended", "first", "last")
)
_IS_CHANGE: Final = f"kind IN ({', '.join(repr(kind.value) for kind in CHANGES)})"
_LARGEST: Final = (1 << 64) - 1


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
        self._no_rows = folder / "no-rows.parquet"

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
        self,
        files: Sequence[RowFile],
        since_us: int | None,
        until_us: int | None,
        byte_files: Sequence[RowFile] | None = None,
    ) -> None:
        """Make the views of rows, over files of the archive and the rows from the topic.

        since_us, until_us: only rows that were appended between them count; None: no limit.
        byte_files: what writes_at() reads instead of `files`: the same rows, in other files.
        """
        byte_files = files if byte_files is None else byte_files
        self._files = list({file.path: file for file in (*files, *byte_files)}.values())
        sources = [f"SELECT * FROM {_TOPIC_ROWS}"]
        whole = [file.path for file in files if file.through is None]
        if whole:
            sources.append(f"SELECT * FROM {_read(whole)}")
        for through in sorted({file.through for file in files if file.through is not None}):
            clipped = [file.path for file in files if file.through == through]
            sources.append(f"SELECT * FROM {_read(clipped)} WHERE position <= {through}")
        where = _conditions(since_us, until_us)
        union = " UNION ALL BY NAME ".join(sources)
        self._database.execute(f"CREATE VIEW history AS SELECT *{_TIMES} FROM ({union}){where}")
        self._database.execute(f"CREATE VIEW writes AS SELECT * FROM history WHERE {_IS_CHANGE}")
        self._add_writes_at(byte_files, where)

    def _add_writes_at(self, files: Sequence[RowFile], where: str) -> None:
        """Make writes_at(volume, byte): the writes of one byte, read from few row groups.

        An extent that holds the byte begins at it at the latest, and before it by less than the
        longest extent there is. Files whose bytes don't reach the byte aren't opened: the variables
        hold what is known of each, and DuckDB chooses when it plans the query.
        """
        ((in_topic,),) = self._database.execute(
            f"SELECT coalesce(max(length), 0) FROM {_TOPIC_ROWS}"
        ).fetchall()
        longest = max(int(in_topic), longest_of(file.file for file in files))
        pq = require_module("pyarrow.parquet", extra="archive", purpose="`mirrorlog sql`")
        pq.write_table(_no_rows(), self._no_rows)
        sources = [f"SELECT * FROM {_TOPIC_ROWS}"]
        throughs = dict.fromkeys(file.through for file in files)
        for number, through in enumerate(throughs):
            name = f"byte_files_{number}"
            self._set_variable(name, [file for file in files if file.through == through])
            clip = "" if through is None else f" WHERE position <= {through}"
            sources.append(f"SELECT * FROM {self._read_reaching(name)}{clip}")
        union = " UNION ALL BY NAME ".join(sources)
        condition = f"{where} AND" if where else " WHERE"
        self._database.execute(
            f"CREATE MACRO writes_at(of_volume, byte) AS TABLE SELECT *{_TIMES} FROM ({union})"
            f'{condition} {_IS_CHANGE} AND volume = of_volume AND "offset" <= byte '
            f'AND "offset" >= greatest(byte::HUGEINT - {longest}, 0)::UBIGINT '
            'AND "offset"::HUGEINT + length > byte'
        )

    def _set_variable(self, name: str, files: Sequence[RowFile]) -> None:
        """Let a variable hold paths, volumes and bytes of files that have extents."""
        known = [(file, named) for file in files if (named := bytes_named(file.file)) is not None]
        given = {
            "path": [file.path for file, _ in known],
            "volume": [file.file.volume for file, _ in known],
            "first": [first for _, (first, _) in known],
            "behind": [min(behind, _LARGEST) for _, (_, behind) in known],
        }
        pa = require_module("pyarrow", extra="archive", purpose="`mirrorlog sql`")
        types = (pa.string(), pa.string(), pa.uint64(), pa.uint64())
        arrays = [
            pa.array(values, kind) for values, kind in zip(given.values(), types, strict=True)
        ]
        self._execute_with(
            pa.Table.from_arrays(arrays, names=list(given)),
            f"SET VARIABLE {name} = (SELECT coalesce(list(given), []) FROM given)",
        )

    def _read_reaching(self, name: str) -> str:
        """Return what reads the files in a variable that may have writes of the macro's byte.

        A file without rows is always among them: a list without files is an error.
        """
        reaches = (
            "lambda file: file['volume'] = of_volume AND file['first'] <= byte "
            "AND file['behind'] >= byte"
        )
        chosen = f"list_filter(getvariable('{name}'), {reaches})"
        paths = f"list_transform({chosen}, lambda file: file['path'])"
        return (
            f"read_parquet([{_quoted(str(self._no_rows))}] || {paths}, "
            "hive_partitioning = false, union_by_name = true)"
        )

    def lock(self) -> None:
        """Switch off what a query doesn't need (step 3)."""
        merged = {
            file.path.removesuffix(file.file.name) + MERGED
            for file in self._files
            if isinstance(file.file, MergedFile)
        }
        paths = [file.path for file in self._files if not isinstance(file.file, MergedFile)]
        self._allow("paths", [*paths, str(self._no_rows)])
        self._allow("directories", sorted(merged))
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")

    def _allow(self, what: str, names: Sequence[str]) -> None:
        listed = ", ".join(map(_quoted, names))
        self._database.execute(f"SET allowed_{what} = [{listed}]")

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


def _conditions(since_us: int | None, until_us: int | None) -> str:
    """Return the WHERE of rows that were appended between two times; nothing without limits."""
    limits = [
        f"appended_at_us {sign} {limit}"
        for sign, limit in ((">=", since_us), ("<=", until_us))
        if limit is not None
    ]
    return f" WHERE {' AND '.join(limits)}" if limits else ""


def query_failed(error: Exception) -> QueryFailed:
    """Return DuckDB's error as one of ours."""
    return QueryFailed(
        f"the query failed: {_first_line(error)}",
        next="Ask for less (`--volumes`, `--since`), or give it more memory (`--memory`).",
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]


def _read(paths: Sequence[str]) -> str:
    names = ", ".join(_quoted(path) for path in paths)
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
