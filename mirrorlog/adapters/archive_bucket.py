"""An archive in a bucket of S3, or of a server that speaks its protocol: ArchiveStore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mirrorlog.adapters.object_bucket import ObjectBucket, open_s3
from mirrorlog.errors import ArchiveFailed

_PURPOSE: Final = "an archive in S3"


class BucketArchive(ObjectBucket):
    """The objects of an archive are below a prefix of a bucket."""

    def __init__(self, store: Any, address: str) -> None:
        super().__init__(store, address, failure=ArchiveFailed, purpose=_PURPOSE)


def open_bucket(address: str, options: Mapping[str, str]) -> BucketArchive:
    """Open the archive at s3://BUCKET/PREFIX, as open_s3() does."""
    store, where = open_s3(
        address,
        options,
        purpose=_PURPOSE,
        help="Check the names in the setting archive_s3 (docs/archive.md).",
    )
    return BucketArchive(store, where)
