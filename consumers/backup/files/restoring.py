"""Restores files out of a point: what the process that reads finds is written into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mirrorlog.consumers.backup.files.asking import CPU_S, MEMORY_BYTES, ask_for_files
from mirrorlog.consumers.backup.files.read_process import ReadRequest
from mirrorlog.consumers.backup.files.records import Record
from mirrorlog.consumers.backup.files.tree_writer import RestoredFiles, TreeWriter, WriteOptions
from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.qcow2_files import image_digests
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.file_names.reading_process import need_library


def restore_files(
    repository: Repository,
    catalog: VolumeCatalog,
    point: str,
    paths: Sequence[bytes],
    target: Path,
    *,
    partition: int | None,
    options: WriteOptions,
    on_problem: Callable[[bytes, str], None],
) -> RestoredFiles:
    """Restore files and folders out of a point, below the folder `target`, under their full paths.

    What is read of the images is held against their digests: a file that damage has hit is a
    problem, and isn't restored. paths: absolute paths in the file system of the volume. partition:
    its number, where several have such a file. on_problem: takes the path and the reason of what
    isn't restored.

    Raise BadUse without pytsk3, StateDamaged and BadUse as Repository.chain_files, BadInput as
    ask_for_files, DeviceFailed if nothing more can be written.
    """
    need_library("files are read", otherwise="Or mount the point (`mirrorlog backup mount`).")
    with repository.chain_files(catalog, point) as images:
        records = [catalog.records.get(name) for name in catalog.chain(point)]
        request = ReadRequest(
            images=[str(path) for path in images],
            image_ids=catalog.image_ids(point),
            digests=[
                None if record is None else _digests_of(record, path)
                for record, path in zip(records, images, strict=True)
            ],
            size_bytes=catalog.point(point).manifest.size_bytes,
            paths=[path.decode("latin-1") for path in paths],
            partition=partition,
            memory_bytes=MEMORY_BYTES,
            cpu_s=CPU_S,
        )
        where = f"point {point} of volume {catalog.volume}"
        with closing(ask_for_files(request, where)) as answered:
            return write_records(answered, target, options, on_problem)


def _digests_of(record: PointRecord, path: Path) -> dict[str, Any]:
    return asdict(image_digests(record.image.digests, str(path)))


def write_records(
    records: Iterable[Record],
    target: Path,
    options: WriteOptions,
    on_problem: Callable[[bytes, str], None],
) -> RestoredFiles:
    """Write records below a folder. Raise as TreeWriter, and what yields the records raises."""
    with TreeWriter(target, options, on_problem) as writer:
        for record in records:
            writer.take(record)
        return writer.result
