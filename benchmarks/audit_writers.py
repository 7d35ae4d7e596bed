"""Who wrote a block in 30 days: asked of an archive's files of rows by `writes_at`.

The rows are those of the first commands of each day of an AuditState, made into files by the
archiver's own code: one file a day. Beside the state's rows, ten rows of each file are of the block
that is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from audit_state import BLOCK, DAY_S, EXTENTS_A_COMMAND, AuditState, SimulatedCommands

from mirrorlog.consumers.archive.plan import WriteCommands
from mirrorlog.consumers.archive.row_files import row_files
from mirrorlog.consumers.sql.archived_files import RowFile
from mirrorlog.consumers.sql.database import SqlDatabase
from mirrorlog.domain.histories import History
from mirrorlog.history.batches import NumberColumn
from mirrorlog.history.command_rows import command_rows

BLOCK_ASKED = 123_456_789
WRITES_A_DAY = 10
HISTORY = History(cluster="c", topic="t", epoch=1, id="11111111-1111-4111-8111-111111111111")
_MEMORY_BYTES = 1 << 30


def written_files(state: AuditState, folder: Path, rows_a_day: int) -> list[RowFile]:
    """Write the files, and return them."""
    commands, files = SimulatedCommands(state), list[RowFile]()
    for day in range(state.days):
        first = day * DAY_S * state.commands_a_second
        reader = commands.reader()
        reader.assign("commands", {0: first})
        messages = reader.poll(0, max_messages=rows_a_day // EXTENTS_A_COMMAND)
        through = messages[-1].position
        batch = command_rows(messages, state.volume, through=through)
        offsets = batch.numbers("offset")
        asked = offsets.values.copy()
        random = np.random.default_rng(day)
        asked[random.choice(len(asked), WRITES_A_DAY, replace=False)] = BLOCK_ASKED * BLOCK
        batch = batch.with_column("offset", NumberColumn(asked, offsets.known))
        step = WriteCommands(history=HISTORY, previous=None, after=first - 1, through=through)
        for file in row_files(step, state.volume, batch):
            path = folder / f"{day}.parquet"
            path.write_bytes(file.content)
            files.append(RowFile(file.entry, path, None))
    return files


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
