"""The files of rows that a question needs, as files of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.archive.archive import Archive, MergedChain
from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.archive.chains import ClippedChain, line_of
from mirrorlog.archive.manifests import ArchivedFile, FileKind
from mirrorlog.consumers.sql.question import SqlQuestion


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows. through: rows above this position are superseded; None: all count."""

    file: ArchivedFile
    path: str
    through: int | None


def row_files_for(
    archived: ArchivedTopic, question: SqlQuestion, seams: Mapping[int, int], cache: Path
) -> Iterator[RowFile]:
    """Yield the files that may hold rows of the question, by volume and time.

    seams: by partition, the position above which the rows are read from the topic. So what an
    archiver writes meanwhile isn't there twice. Files of earlier topics have no seam.
    cache: an empty folder for files of a bucket: they are fetched, and checked by their SHA-256.
    Files of a folder are read where they are, and only in parts: `archive verify` checks them.
    Raise StateDamaged for a file that isn't what was written; ArchiveFailed.
    """
    archive = archived.archive
    for partition in archive.partitions():
        chains = archive.chains(partition)
        for topic in dict.fromkeys(chain.history.topic for chain in chains):
            seam = seams.get(partition) if topic == archived.topic_id else None
            for part in line_of(chains, topic):
                for file, through in _files_of(part, seam):
                    if _may_answer(file, question):
                        yield RowFile(file, _path(archive, file, cache), through)


def byte_files_for(
    archived: ArchivedTopic, question: SqlQuestion, seams: Mapping[int, int], cache: Path
) -> Iterator[RowFile]:
    """Yield the files for questions for a byte: merged ones, and the others behind the last merge.

    Arguments and errors: those of row_files_for(). In a bucket merged files are left alone: all of
    them would be fetched.
    """
    archive = archived.archive
    if not isinstance(archive.store, FolderArchive):
        yield from row_files_for(archived, question, seams, cache)
        return
    for partition in archive.partitions():
        merged = archive.merged_chains(partition)
        merges = {item.chain.history: item for item in merged}
        for topic in dict.fromkeys(item.chain.history.topic for item in merged):
            seam = seams.get(partition) if topic == archived.topic_id else None
            for part in line_of([item.chain for item in merged], topic):
                for file, through in _byte_files_of(merges[part.chain.history], part, seam):
                    if _may_answer(file, question):
                        yield RowFile(file, _path(archive, file, cache), through)


def _byte_files_of(
    merged: MergedChain, part: ClippedChain, seam: int | None
) -> Iterator[tuple[ArchivedFile, int | None]]:
    """Yield the files of a chain as _files_of() does, merged ones where there are."""
    limit = part.through if seam is None else min(part.through, seam)
    for merge in merged.merges:
        if merge.after < limit:
            through = limit if merge.through > limit else None
            yield from ((file, through) for file in merge.files)
    for file, through in _files_of(part, seam):
        if file.first_position > merged.merged_through:
            yield file, through


def _files_of(part: ClippedChain, seam: int | None) -> Iterator[tuple[ArchivedFile, int | None]]:
    """Yield the files of rows of a chain below the seam, and RowFile.through of each."""
    for manifest in part.chain.manifests:
        if manifest.after >= part.through or (seam is not None and manifest.after >= seam):
            continue
        through = part.through if manifest.through > part.through else None
        for file in manifest.files_of(FileKind.ROWS):
            yield file, through


def _may_answer(file: ArchivedFile, question: SqlQuestion) -> bool:
    if not question.is_wanted(file.volume or ""):
        return False
    first, last = file.first_appended_at_us, file.last_appended_at_us
    if first is None or last is None:
        return True
    is_before = question.since_us is not None and last < question.since_us
    is_behind = question.until_us is not None and first > question.until_us
    return not (is_before or is_behind)


def _path(archive: Archive, file: ArchivedFile, cache: Path) -> str:
    if isinstance(archive.store, FolderArchive):
        return archive.store.path_of(file.name)
    path = cache / f"{file.sha256}.parquet"
    if not path.exists():
        path.write_bytes(archive.content(file))
    return str(path)
