"""Opens a point of a repository as a device that is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import compare_images


@contextmanager
def open_point(
    repository: Repository, catalog: VolumeCatalog, point: str, *, reads_all: bool = False
) -> Iterator[ChainReader]:
    """Lend the volume as of a point, which has its true size.

    catalog: of the volume, from this repository. reads_all: compare all bytes of the images with
    their digests first. The files that are open stay as they are, also if a prune replaces them.

    Raise BadUse if there is no such point. Raise StateDamaged if an image is missing, damaged, or
    not the one that its manifest names, and DamagedSource if its digests differ.
    """
    record, image_ids = catalog.point(point), catalog.image_ids(point)
    with repository.chain_files(catalog, point) as paths:
        if reads_all:
            files = zip(catalog.chain(point), paths, strict=True)
            known = (
                (catalog.records[name], path) for name, path in files if name in catalog.records
            )
            compare_images(repository.images, known)
        with ChainReader(
            paths,
            image_ids=None if image_ids is None else [UUID(text) for text in image_ids],
            size_bytes=record.manifest.size_bytes,
        ) as reader:
            yield reader
