"""Opens the archive at an address: a folder of this machine, or s3://BUCKET/PREFIX."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

from mirrorlog.adapters.archive_bucket import open_bucket
from mirrorlog.adapters.archive_folder import FolderArchive
from mirrorlog.errors import BadUse
from mirrorlog.ports.archive_stores import ArchiveStore

_SCHEME = "s3://"
_FROM_FILE = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}


def open_archive_store(
    address: str,
    options: Mapping[str, str] | None = None,
    credentials_file: Path | None = None,
    *,
    for_writing: bool = False,
) -> ArchiveStore:
    """Return the store at `address`.

    options, credentials_file: as for s3_options(). for_writing: check that the store lets two
    archivers work at once. Raise BadUse for an address of another kind, and as the adapters do.
    """
    if address.startswith(_SCHEME):
        bucket = open_bucket(address, s3_options(options or {}, credentials_file))
        if for_writing:
            bucket.check()
        return bucket
    if "://" in address:
        raise BadUse(
            "archives are in folders and in buckets of S3",
            where=address,
            next="Name a folder, or s3://BUCKET/PREFIX.",
        )
    return FolderArchive(Path(address).expanduser())


def s3_options(options: Mapping[str, str], credentials_file: Path | None) -> dict[str, str]:
    """Return options as for open_bucket(): those given, and the credentials of a file.

    credentials_file: in the form of ~/.aws/credentials, whose profile `default` is used. Raise
    BadUse if it can't be used.
    """
    return {**_credentials(credentials_file), **options}


def _refusal(error: Exception) -> str:
    """Return why a file of credentials is refused, without a word of its content."""
    if isinstance(error, OSError):
        return error.strerror or "it can't be read"
    if isinstance(error, KeyError):
        return "it has no profile [default]"
    return "its lines don't have that form"


def _credentials(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text("utf-8"))
        section = parser["default"]
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError) as error:
        # The text of configparser's errors quotes the line, which may be a secret.
        raise BadUse(
            f"the file with the credentials can't be used: {_refusal(error)}",
            where=str(path),
            next="It has the form of ~/.aws/credentials, with a profile [default].",
        ) from None
    return {name: section[key] for key, name in _FROM_FILE.items() if key in section}
