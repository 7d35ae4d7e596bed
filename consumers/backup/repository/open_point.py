"""Opens a point of a repository as a device that is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import compare_images
from mirrorlog.errors import MirrorlogError, StateDamaged


@contextmanager
def open_point(
    repository: Repository, catalog: VolumeCatalog, point: str, *, reads_all: bool = False
) -> Iterator[ChainReader]:
    """Lend the volume as of a point, which has its true size.

    catalog: of the volume, from this repository. If a prune has changed what the point stands on
    since then, it is read anew. reads_all: compare all bytes of the images with their digests
    first. The files that are open stay as they are, also if a prune replaces them.

    Raise BadUse if there is no such point. Raise StateDamaged if an image is missing, damaged, or
    not the one that its manifest names, and DamagedSource if its digests differ.
    """
    with ExitStack() as stack:
        while True:
            try:
                reader = _open(stack, repository, catalog, point, reads_all=reads_all)
                break
            except MirrorlogError:
                stack.close()
                newer = repository.catalog(catalog.volume)
                if _images(newer, point) == _images(catalog, point):
                    raise  # it isn't a prune
                catalog = newer
        yield reader


def _open(
    stack: ExitStack,
    repository: Repository,
    catalog: VolumeCatalog,
    point: str,
    *,
    reads_all: bool,
) -> ChainReader:
    """Open the point as this catalog knows it. All that is open is closed with `stack`."""
    record, image_ids = catalog.point(point), catalog.image_ids(point)
    paths = stack.enter_context(repository.chain_files(catalog, point))
    reader = stack.enter_context(
        ChainReader(
            paths,
            image_ids=None if image_ids is None else [UUID(text) for text in image_ids],
            size_bytes=record.manifest.size_bytes,
        )
    )
    if reads_all:  # what is open by now is what is compared: another image has other digests
        files = zip(catalog.chain(point), paths, strict=True)
        known = ((catalog.records[name], path) for name, path in files if name in catalog.records)
        compare_images(repository.images, known)
    return reader


def _images(catalog: VolumeCatalog, point: str) -> tuple[list[str] | None, bool] | None:
    """Return the ids of the images that a point needs, and whether it can be restored.

    None if one of the images is missing.
    """
    try:
        return catalog.image_ids(point), point in {record.point for record in catalog.points}
    except StateDamaged:
        return None
