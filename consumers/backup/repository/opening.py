"""Opens the repository at an address: a folder of this machine, or s3://BUCKET/PREFIX."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from mirrorlog.adapters.archive_addresses import s3_options
from mirrorlog.adapters.backup_bucket import BucketBackups, open_backup_bucket
from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.repository.object_names import HEADER
from mirrorlog.consumers.backup.repository.qcow2_files import Qcow2Files
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.errors import BadUse
from mirrorlog.ports.backup_stores import BackupStore
from mirrorlog.settings import Settings

_SCHEME = "s3://"
_WORK = "backup-work"
"""Below the state folder: for images on their way to a bucket, and copies of its images."""


def open_backup_store(settings: Settings, address: str) -> BackupStore:
    """Return the store at `address`. Raise BadUse for an address of another kind.

    A bucket is reached with the settings of the archive's (`archive_s3`, `archive_s3_credentials`).
    """
    if address.startswith(_SCHEME):
        options = s3_options(settings.archive_s3, settings.archive_s3_credentials)
        return open_backup_bucket(address, options, settings.state_dir / _WORK)
    if not address or "://" in address:
        raise BadUse(
            "repositories of backups are in folders and in buckets of S3",
            where=address,
            next="Name a folder, or s3://BUCKET/PREFIX.",
        )
    return FolderBackups(Path(address).expanduser().absolute())


@contextmanager
def open_repository(
    settings: Settings, address: str, *, creates: bool = False, lock_wait_s: float = 0.0
) -> Iterator[Repository]:
    """Open the repository at `address`, until the block ends.

    creates: create one if there is none. lock_wait_s: as in Repository. Raise as
    open_backup_store() and Repository.open() do.
    """
    with closing(open_backup_store(settings, address)) as store:
        images = Qcow2Files()
        if creates and store.read(HEADER) is None:
            if isinstance(store, BucketBackups):
                store.check()
            repository = Repository.create(store, images)
        else:
            repository = Repository.open(store, images)
        yield replace(repository, lock_wait_s=lock_wait_s)
