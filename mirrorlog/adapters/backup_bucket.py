"""A backup repository in a bucket of S3: the port mirrorlog.ports.backup_stores.BackupStore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mirrorlog.adapters.lease_locks import LEASE_S, LeaseLock, take_lease
from mirrorlog.adapters.object_bucket import ObjectBucket, open_s3
from mirrorlog.adapters.object_folder import lent_work_folder
from mirrorlog.errors import RepositoryFailed
from mirrorlog.ports.clock import Clock, SystemClock

_PURPOSE: Final = "a backup repository in S3"
_PART_BYTES: Final = 8 << 20
_MOST_PARTS: Final = 9_000
"""S3 refuses more than 10,000 parts of one object."""


class BucketBackups(ObjectBucket):
    """Objects below a prefix of a bucket.

    An image of more than a part is uploaded in parts, and is there whole or not at all. What a
    killed upload leaves isn't visible; a rule of the bucket should delete it after a day or two
    (AbortIncompleteMultipartUpload).

    work: where local files are kept that are uploaded, or copies of images: a folder for that
    alone; None: where the system keeps temporary files, and killed processes leave theirs.
    """

    def __init__(
        self,
        store: Any,
        address: str,
        *,
        clock: Clock | None = None,
        lease_s: float = LEASE_S,
        work: Path | None = None,
    ) -> None:
        super().__init__(store, address, failure=RepositoryFailed, purpose=_PURPOSE)
        self._clock: Final[Clock] = clock or SystemClock()
        self._lease_s, self._work = lease_s, work

    def upload(self, name: str, source: Path) -> bool:
        """Create an object of a file. Return False if it exists."""
        if self.size_bytes(name) is not None:
            return False
        self.replace(name, source)
        return True

    def replace(self, name: str, source: Path) -> None:
        """Create an object of a file, or replace it."""
        part_bytes = max(_PART_BYTES, -(-source.stat().st_size // _MOST_PARTS))
        with self._reported(f"object {name} can't be written"):
            self._obstore.put(self._store, name, source, mode="overwrite", chunk_size=part_bytes)

    def read_range(self, name: str, *, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes of an object; None if there is none."""
        size_bytes = self.size_bytes(name)
        if size_bytes is None:
            return None
        length = min(length, size_bytes - offset)
        if length <= 0:
            return b""
        with self._reported(f"object {name} can't be read"):
            try:
                content = self._obstore.get_range(self._store, name, start=offset, length=length)
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return None
        return bytes(content)

    def download(self, name: str, target: Path) -> bool:
        """Write an object to a new file. Return False if there is none."""
        with self._reported(f"object {name} can't be copied"):
            try:
                answer = self._obstore.get(self._store, name)
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return False
            with target.open("xb") as file:
                for piece in answer.stream(min_chunk_size=_PART_BYTES):
                    file.write(piece)
        return True

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        with self._reported(f"object {name} can't be deleted"):
            try:
                self._obstore.delete(self._store, name)
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return

    def local_path(self, name: str) -> None:
        """Return None: nothing is in the file system."""
        del name

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Lend a temporary folder."""
        if self._work is None:
            with TemporaryDirectory(prefix="mirrorlog-") as temporary:
                yield Path(temporary)
            return
        with lent_work_folder(self._work) as folder:
            yield folder

    def lock(self, purpose: str) -> LeaseLock:
        """Take the lock of the repository, and keep it."""
        lock = take_lease(self, self._clock, purpose, lease_s=self._lease_s)
        lock.start_renewing()
        return lock


def open_backup_bucket(
    address: str, options: Mapping[str, str], work: Path | None = None
) -> BucketBackups:
    """Open the repository at s3://BUCKET/PREFIX, as open_s3() does. work: as in BucketBackups."""
    store, where = open_s3(
        address,
        options,
        purpose=_PURPOSE,
        help="Check the names in the settings of the repository (docs/backup.md).",
    )
    return BucketBackups(store, where, work=work)
