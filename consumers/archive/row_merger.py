"""Merges files of rows: those of 64 ranges become few, each with the rows of a span of offsets.

Without merges, a question for a byte opens one file of every range, 13,000 of them after 30 days of
10,000 writes a second. With them it opens one or two files of each merge, whose entries say which
offsets they hold.

The steps, and why a crash or another archiver does no harm, are those of archiver.py: the files
first, then the merge's manifest under the name that follows from where it begins. What is merged is
a pure function of the chain, so two archivers make the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mirrorlog.archive.archive import Archive, MergedChain
from mirrorlog.archive.chains import StoredManifest
from mirrorlog.archive.manifests import ArchivedFile, FileKind, digest_of
from mirrorlog.archive.merges import MergedFile, RowMerge, encode_merge
from mirrorlog.archive.names import merge_name, merged_name
from mirrorlog.consumers.archive.merged_files import merged_content
from mirrorlog.consumers.archive.sorted_rows import merged_tables, tables_of
from mirrorlog.domain.histories import History
from mirrorlog.errors import StateDamaged
from mirrorlog.extras import require_module

MERGED_RANGES: Final = 64
"""How many ranges become one merge: about as many as there are merges after a month."""
FILE_ROWS: Final = 1 << 21
"""Of a merged file, the last of a volume excepted: 35 MB, in memory while it is made."""
GROUP_ROWS: Final = 1 << 17
"""Of a row group. A question parses the footer of a file, and decodes a row group of it: 16 groups
and 131,072 rows take about the same time."""
_BATCH_ROWS: Final = 1 << 12
"""Of the rows of each source that are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeStep:
    """The manifests whose rows become the next merge of their history."""

    history: History
    partition: int
    after: int
    stored: Sequence[StoredManifest]

    @property
    def through(self) -> int:
        """The position through which they go."""
        return self.stored[-1].manifest.through

    def files(self) -> dict[str, list[ArchivedFile]]:
        """Return the files of rows by volume, of each in the order of positions."""
        files: dict[str, list[ArchivedFile]] = {}
        for stored in self.stored:
            for file in stored.manifest.files_of(FileKind.ROWS):
                files.setdefault(file.volume or "", []).append(file)
        return dict(sorted(files.items()))


def next_merge(merged: MergedChain, ranges: int = MERGED_RANGES) -> MergeStep | None:
    """Return what is merged next of a chain; None while it has fewer than `ranges` more ranges."""
    after = merged.merged_through
    stored = [item for item in merged.chain.stored if item.manifest.after >= after][:ranges]
    if len(stored) < ranges:
        return None
    return MergeStep(
        history=merged.chain.history,
        partition=merged.chain.last.partition,
        after=after,
        stored=stored,
    )


class RowMerger:
    """Makes the merges of an archive. One thread calls it.

    stopped: looked at before each file is made. ranges, file_rows, group_rows: MERGED_RANGES,
        FILE_ROWS and GROUP_ROWS.
    """

    def __init__(
        self,
        archive: Archive,
        stopped: Callable[[], bool] = lambda: False,
        *,
        written_by: str = "",
        ranges: int = MERGED_RANGES,
        file_rows: int = FILE_ROWS,
        group_rows: int = GROUP_ROWS,
    ) -> None:
        self._archive, self._stopped, self._written_by = archive, stopped, written_by
        self._ranges, self._file_rows, self._group_rows = ranges, file_rows, group_rows

    def merge_partition(self, partition: int) -> int:
        """Merge what can be merged of a partition; return how many merges were written.

        Raise StateDamaged if a file of rows isn't what was written; ArchiveFailed.
        """
        histories = [item.chain.history for item in self._archive.merged_chains(partition)]
        return sum(self._merge_history(partition, history) for history in histories)

    def _merge_history(self, partition: int, history: History) -> int:
        written = 0
        while step := next_merge(self._merged_chain(partition, history), self._ranges):
            files = tuple(self._files(step))
            if self._stopped():
                break
            merge = RowMerge(
                partition=partition,
                history=history,
                after=step.after,
                through=step.through,
                last_manifest_sha256=step.stored[-1].sha256,
                files=files,
                written_by=self._written_by,
            )
            name = merge_name(partition, history, after=step.after)
            written += self._archive.store.create(name, encode_merge(merge))
        return written

    def _merged_chain(self, partition: int, history: History) -> MergedChain:
        """Return a chain as the store has it now, with the merges of all archivers."""
        chains = self._archive.merged_chains(partition)
        return next(item for item in chains if item.chain.history == history)

    def _files(self, step: MergeStep) -> Iterator[MergedFile]:
        """Create the files of a merge. Stop early if the merger is stopped."""
        for volume, sources in step.files().items():
            with ExitStack() as opened:
                folder = tempfile.TemporaryDirectory(prefix="mirrorlog-merge-")
                copies = Path(opened.enter_context(folder))
                readers = [
                    opened.enter_context(closing(self._rows(file, copies))) for file in sources
                ]
                rows = merged_tables(readers)
                for number, tables in enumerate(self._file_parts(rows)):
                    yield self._create(step, volume, number, tables)
                    if self._stopped():
                        return

    def _rows(self, file: ArchivedFile, folder: Path) -> Generator[Any]:
        """Yield the rows of a file, in order. It is checked, and copied to a folder meanwhile."""
        pa = require_module("pyarrow", extra="archive", purpose="an archive")
        pq = require_module("pyarrow.parquet", extra="archive", purpose="an archive")
        copy = folder / file.sha256
        copy.write_bytes(self._archive.content(file))
        try:
            with pq.ParquetFile(copy) as parquet:
                for group in range(parquet.num_row_groups):
                    # Of all groups at once, iter_batches would hold the whole file.
                    for batch in parquet.iter_batches(_BATCH_ROWS, [group], use_threads=False):
                        yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise StateDamaged(
                f"a file of the archive can't be read: {str(error).splitlines()[0]}",
                where=file.name,
                next="Run `mirrorlog archive verify`, and restore the file from a copy.",
            ) from error
        finally:
            copy.unlink(missing_ok=True)

    def _file_parts(self, rows: Iterator[Any]) -> Iterator[Iterator[Any]]:
        """Yield the row groups of one file after the other."""
        groups = tables_of(rows, self._group_rows)
        while (first := next(groups, None)) is not None:
            yield self._groups_of_file(first, groups)

    def _groups_of_file(self, first: Any, groups: Iterator[Any]) -> Iterator[Any]:
        """Yield the row groups of one file, of which `first` is the first."""
        yield first
        rows = first.num_rows
        while rows < self._file_rows and (group := next(groups, None)) is not None:
            rows += group.num_rows
            yield group

    def _create(
        self, step: MergeStep, volume: str, number: int, groups: Iterator[Any]
    ) -> MergedFile:
        content, facts = merged_content(groups)
        history = step.history
        name = merged_name(
            volume,
            step.partition,
            history,
            number,
            after=step.after,
            through=step.through,
            content=content,
        )
        self._archive.store.create(name, content)
        return MergedFile(
            name=name,
            kind=FileKind.ROWS,
            size_bytes=len(content),
            sha256=digest_of(content),
            volume=volume,
            **facts,
        )
