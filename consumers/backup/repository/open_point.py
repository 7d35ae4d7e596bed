"""Opens a point of a repository as a device that is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import DamagedSource


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
    record = catalog.point(point)
    chain = catalog.chain(point)
    records = [catalog.records.get(name) for name in chain]
    with repository.chain_files(catalog, point) as paths:
        for known, path in zip(records, paths, strict=True):
            if reads_all and known is not None:
                size_bytes = known.manifest.size_bytes
                for damage in repository.images.check(path, known.image, size_bytes=size_bytes):
                    raise DamagedSource(known.point, damage.what, str(path))
        image_ids = [UUID(known.image.image_id) for known in records if known is not None]
        with ChainReader(
            paths,
            image_ids=image_ids if len(image_ids) == len(paths) else None,
            size_bytes=record.manifest.size_bytes,
        ) as reader:
            yield reader
