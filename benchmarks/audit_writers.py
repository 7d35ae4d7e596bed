"""Who wrote a block in 30 days, asked by `writes_at` of an archive of 27 billion rows.

Nobody writes so many rows for a benchmark. Of the archive everything is there that the question
reads: all manifests, all merges, and every file that is opened. A few files of ranges are made by
the archiver's own code, of the commands of an AuditState and as large as the archiver makes them
(32 MiB of commands, 2.1 million rows). All ranges have one of them, as hard links with names of
their own. Of a merge, the one file is made that holds the block, by the merger's own code out of as
many ranges as it merges; the others are entries in its manifest only. A block is asked for that is
written ten times a day: so one range of 43 has a write of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from audit_state import BLOCK, BLOCKS, DAY_S, EXTENTS_A_COMMAND, AuditState, SimulatedCommands
from pyarrow import Table, parquet

from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.archive.archive import Archive
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.archive.manifests import ArchivedFile, FileKind, Manifest, digest_of, encode_manifest
from mirrorlog.archive.merges import MergedFile, RowMerge, encode_merge
from mirrorlog.archive.names import manifest_name, merge_name, merged_name, rows_name
from mirrorlog.consumers.archive.merged_files import merged_content
from mirrorlog.consumers.archive.plan import WriteCommands
from mirrorlog.consumers.archive.row_files import row_files
from mirrorlog.consumers.archive.row_merger import FILE_ROWS, GROUP_ROWS, MERGED_RANGES
from mirrorlog.consumers.archive.sorted_rows import merged_tables, tables_of
from mirrorlog.consumers.sql.archived_files import byte_files_for, row_files_for
from mirrorlog.consumers.sql.database import SqlDatabase
from mirrorlog.consumers.sql.question import SqlQuestion
from mirrorlog.domain.histories import History
from mirrorlog.history.batches import NumberColumn
from mirrorlog.history.command_rows import command_rows
from mirrorlog.ports.streams import Message

BLOCK_ASKED: Final = 123_456_789
BYTE_ASKED: Final = BLOCK_ASKED * BLOCK
WRITES_A_DAY: Final = 10
RANGE_COMMANDS: Final = 4200
"""Of 8 KB: the archiver closes a range at 32 MiB."""
HISTORY = History(cluster="c", topic="t", epoch=1, id="11111111-1111-4111-8111-111111111111")
_MEMORY_BYTES: Final = 1 << 30
_DISTINCT: Final = 6


@dataclass(frozen=True, slots=True)
class RangeFile:
    """A file of rows of one range. writes: of the block that is asked for."""

    entry: ArchivedFile
    path: Path
    writes: int


def ranges_of(days: int, state: AuditState) -> int:
    """Return how many ranges so many days have, with as many unmerged ones as there may be."""
    ranges = days * DAY_S * state.commands_a_second // RANGE_COMMANDS
    return ranges // MERGED_RANGES * MERGED_RANGES + MERGED_RANGES - 1


def range_files(state: AuditState, folder: Path) -> list[RangeFile]:
    """Write the files of a few ranges. The last of them has a write of the block."""
    files = list[RangeFile]()
    for number in range(_DISTINCT):
        first = number * RANGE_COMMANDS
        messages = _messages(state, first, RANGE_COMMANDS)
        through = messages[-1].position
        batch = command_rows(messages, state.volume, through=through)
        offsets = batch.numbers("offset")
        asked = offsets.values.copy()
        asked[asked == BYTE_ASKED] = BYTE_ASKED + BLOCK
        writes = number == _DISTINCT - 1
        if writes:
            asked[len(asked) // 2] = BYTE_ASKED
        batch = batch.with_column("offset", NumberColumn(asked, offsets.known))
        step = WriteCommands(history=HISTORY, previous=None, after=first - 1, through=through)
        (file,) = row_files(step, state.volume, batch)
        path = folder / f"{number}.parquet"
        path.write_bytes(file.content)
        files.append(RangeFile(file.entry, path, int(writes)))
    return files


def _messages(state: AuditState, first: int, count: int) -> list[Message]:
    reader, messages = SimulatedCommands(state).reader(), list[Message]()
    reader.assign("commands", {0: first})
    while len(messages) < count:
        messages += reader.poll(0, max_messages=count - len(messages))
    return messages


class WritersArchive:
    """An archive of `ranges` ranges in a folder, with merges or without.

    writes: of the block, in all of it. rows: in all of it.
    """

    def __init__(
        self,
        state: AuditState,
        made: Sequence[RangeFile],
        folder: Path,
        ranges: int,
        *,
        is_merged: bool,
    ) -> None:
        self._state, self._folder, self._made = state, folder, made
        self._is_merged = is_merged
        self.writes = self.rows = 0
        a_day = DAY_S * state.commands_a_second // RANGE_COMMANDS
        self._manifests: list[tuple[Manifest, bytes]] = []
        for number in range(ranges):
            # Which of the ranges have a write of the block.
            has_write = (number + 1) * WRITES_A_DAY // a_day > number * WRITES_A_DAY // a_day
            self._add_range(number, made[-1 if has_write else number % (len(made) - 1)])
        if is_merged:
            self._add_merges()

    def _add_range(self, number: int, file: RangeFile) -> None:
        after, through = number * RANGE_COMMANDS - 1, (number + 1) * RANGE_COMMANDS - 1
        day = str(np.datetime64(self._state.made_at_us(after + 1), "us").astype("datetime64[D]"))
        name = rows_name(
            "vol-0001", day, 0, HISTORY, after=after, through=through, content=b"linked"
        )
        entry = replace(
            file.entry,
            name=name,
            day=day,
            first_position=after + 1,
            last_position=through,
            first_appended_at_us=self._state.appended_at_us(after + 1),
            last_appended_at_us=self._state.appended_at_us(through),
        )
        self._link(file.path, name)
        before = self._manifests[-1][1] if self._manifests else None
        manifest = Manifest(
            topic_name="mirrorlog.commands",
            partition=0,
            history=HISTORY,
            after=after,
            through=through,
            commands=RANGE_COMMANDS,
            last=None,
            previous_sha256=None if before is None else digest_of(before),
            files=(entry,),
        )
        content = encode_manifest(manifest)
        self._write(manifest_name(0, HISTORY, after=after), content)
        self._manifests.append((manifest, content))
        self.rows += file.entry.rows
        self.writes += file.writes

    def _add_merges(self) -> None:
        made = dict[int, tuple[Path, MergedFile]]()
        sizes = [m.files[0].size_bytes for m, _ in self._manifests]
        by_size = {file.entry.size_bytes: file for file in self._made}
        for first in range(0, len(sizes) - MERGED_RANGES + 1, MERGED_RANGES):
            sources = [by_size[size] for size in sizes[first : first + MERGED_RANGES]]
            writes = sum(file.writes for file in sources)
            if writes not in made:
                made[writes] = self._merged_file(sources, writes)
            self._add_merge(first, *made[writes])

    def _merged_file(self, sources: Sequence[RangeFile], number: int) -> tuple[Path, MergedFile]:
        """Make the one merged file that holds the block, of about FILE_ROWS rows."""
        content, facts = merged_content(
            tables_of(merged_tables([_near(file) for file in sources]), GROUP_ROWS)
        )
        path = self._folder / f"merged-{number}.parquet"
        path.write_bytes(content)
        entry = sources[0].entry
        file = MergedFile(
            name="",
            kind=FileKind.ROWS,
            size_bytes=len(content),
            sha256=digest_of(content),
            volume=entry.volume,
            **facts,
        )
        return path, file

    def _add_merge(self, first: int, path: Path, file: MergedFile) -> None:
        manifests = self._manifests[first : first + MERGED_RANGES]
        after, through = manifests[0][0].after, manifests[-1][0].through
        rows = sum(manifest.files[0].rows for manifest, _ in manifests)
        assert file.first_offset is not None
        assert file.last_offset is not None
        edges = [int(edge) * BLOCK for edge in np.linspace(0, BLOCKS, rows // FILE_ROWS)]
        spans = [span for span in pairwise(edges) if not span[0] <= BYTE_ASKED < span[1]]
        files = list[MergedFile]()
        for number, (begin, end) in enumerate([*spans, (file.first_offset, file.last_offset)]):
            name = merged_name(
                "vol-0001", 0, HISTORY, number, after=after, through=through, content=b"linked"
            )
            files.append(replace(file, name=name, first_offset=begin, last_offset=end - BLOCK))
        files[-1] = replace(files[-1], last_offset=file.last_offset)
        self._link(path, files[-1].name)
        merge = RowMerge(
            partition=0,
            history=HISTORY,
            after=after,
            through=through,
            last_manifest_sha256=digest_of(manifests[-1][1]),
            files=tuple(files),
        )
        self._write(merge_name(0, HISTORY, after=after), encode_merge(merge))

    def _link(self, made: Path, name: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(made, path)

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def ask(self) -> dict[str, float]:
        """Ask who wrote the block. Return the seconds in all, those of the CPU, and those until
        the files are known; and how many files there were to choose from.

        Nothing is kept from an earlier question but what the kernel has in memory.
        """
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        question = SqlQuestion(query=f"SELECT * FROM writes_at('vol-0001', {BYTE_ASKED})")
        with TemporaryDirectory() as name:
            topic = ArchivedTopic(Archive(FolderArchive(self._folder)), "t")
            choose = byte_files_for if self._is_merged else row_files_for
            files = list(choose(topic, question, {}, Path(name)))
            chosen_s = time.perf_counter() - begun_s
            database = SqlDatabase(_MEMORY_BYTES, Path(name))
            try:
                database.add_topic_rows([])
                database.add_row_views([], None, None, files)
                database.lock()
                rows = len(database.run(question.query).fetchall())
            finally:
                database.close()
        if rows != self.writes:
            raise AssertionError(f"the answer has {rows} writes of the block, not {self.writes}")
        return {
            "s": time.perf_counter() - begun_s,
            "cpu_s": time.process_time() - begun_cpu_s,
            "files_chosen_s": chosen_s,
            "files": len(files),
        }


def _near(file: RangeFile) -> Iterator[Any]:
    """Yield the rows of a range that a merged file with the block would hold."""
    width = BLOCKS * BLOCK * FILE_ROWS // (MERGED_RANGES * RANGE_COMMANDS * EXTENTS_A_COMMAND // 10)
    low, high = BYTE_ASKED - width // 2, BYTE_ASKED + width // 2
    table = parquet.read_table(file.path, filters=[("offset", ">=", low), ("offset", "<", high)])
    for batch in table.to_batches(1 << 12):
        yield Table.from_batches([batch])
