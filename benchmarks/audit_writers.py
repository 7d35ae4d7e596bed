"""Who wrote a block in 30 days: asked of an archive's files of rows by `writes_at`.

The rows are those of the first commands of each day of an AuditState, made into files by the
archiver's own code: one file a day, or more. Beside the state's rows, ten rows of each day are of
the block that is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from audit_state import BLOCK, DAY_S, EXTENTS_A_COMMAND, AuditState, SimulatedCommands
from pyarrow import parquet

from mirrorlog.consumers.archive.plan import WriteCommands
from mirrorlog.consumers.archive.row_files import row_files
from mirrorlog.consumers.sql.archived_files import RowFile
from mirrorlog.consumers.sql.database import SqlDatabase
from mirrorlog.domain.histories import History
from mirrorlog.history.batches import NumberColumn
from mirrorlog.history.command_rows import command_rows
from mirrorlog.ports.streams import Message

BLOCK_ASKED = 123_456_789
WRITES_A_DAY = 10
HISTORY = History(cluster="c", topic="t", epoch=1, id="11111111-1111-4111-8111-111111111111")
_MEMORY_BYTES = 1 << 30


def written_files(
    state: AuditState, folder: Path, rows_a_day: int, files_a_day: int = 1
) -> list[RowFile]:
    """Write the files, and return them."""
    files = list[RowFile]()
    commands_a_file = rows_a_day // EXTENTS_A_COMMAND // files_a_day
    for number in range(state.days * files_a_day):
        day, part = divmod(number, files_a_day)
        first = day * DAY_S * state.commands_a_second + part * commands_a_file
        messages = _messages(state, first, commands_a_file)
        through = messages[-1].position
        batch = command_rows(messages, state.volume, through=through)
        offsets = batch.numbers("offset")
        asked = offsets.values.copy()
        random = np.random.default_rng(number)
        begin, end = (WRITES_A_DAY * edge // files_a_day for edge in (part, part + 1))
        chosen = random.choice(len(asked), end - begin, replace=False)
        asked[chosen] = BLOCK_ASKED * BLOCK
        batch = batch.with_column("offset", NumberColumn(asked, offsets.known))
        step = WriteCommands(history=HISTORY, previous=None, after=first - 1, through=through)
        for file in row_files(step, state.volume, batch):
            path = folder / f"{number}.parquet"
            path.write_bytes(file.content)
            files.append(RowFile(file.entry, path, None))
    return files


def _messages(state: AuditState, first: int, count: int) -> list[Message]:
    reader, messages = SimulatedCommands(state).reader(), list[Message]()
    reader.assign("commands", {0: first})
    while len(messages) < count:
        messages += reader.poll(0, max_messages=count - len(messages))
    return messages


def row_groups(files: Sequence[RowFile]) -> tuple[int, int]:
    """Return the number of row groups, and of those whose statistics don't exclude the block."""
    at, every, read = BLOCK_ASKED * BLOCK, 0, 0
    for file in files:
        metadata = parquet.ParquetFile(file.path).metadata
        column = metadata.schema.to_arrow_schema().get_field_index("offset")
        for number in range(metadata.num_row_groups):
            statistics = metadata.row_group(number).column(column).statistics
            every += 1
            read += statistics.min <= at and statistics.max > at - BLOCK
    return every, read


def ask_writers(state: AuditState, files: Sequence[RowFile]) -> tuple[float, int]:
    """Ask who wrote the block. Return the seconds, with those of the database, and the rows."""
    begun_s = time.perf_counter()
    with TemporaryDirectory() as folder:
        database = SqlDatabase(_MEMORY_BYTES, Path(folder))
        try:
            database.add_topic_rows([])
            database.add_row_views(files, None, None)
            database.lock()
            query = f"SELECT * FROM writes_at('{state.volume.volume}', {BLOCK_ASKED * BLOCK})"
            rows = database.run(query).fetchall()
        finally:
            database.close()
    return time.perf_counter() - begun_s, len(rows)
