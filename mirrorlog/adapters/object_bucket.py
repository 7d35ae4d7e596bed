"""Objects in a bucket of S3, or of a server that speaks its protocol: for archives and backups.

obstore (MIT, 16 MB installed) is the client, because an object must be created only if there is
none of its name: S3's `If-None-Match: *` (conditional writes), which pyarrow's file system doesn't
offer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from mirrorlog.errors import BadUse, MirrorlogError, in_words
from mirrorlog.extras import require_module

_PROBES: Final = "probes/"
_PROBE: Final = b"two writers never write one name\n"


class ObjectBucket:
    """Objects below a prefix of a bucket.

    store: an ObjectStore of obstore, whose paths begin behind the prefix. address: for people.
    A request that fails is repeated by obstore, with growing pauses, and an upload is one request:
    it is there whole or not at all.

    failure: the error for what the server refuses. purpose: what needs the bucket, for people, as
    in "an archive in S3".
    """

    def __init__(
        self, store: Any, address: str, *, failure: type[MirrorlogError], purpose: str
    ) -> None:
        self._obstore = require_module("obstore", extra="archive", purpose=purpose)
        self._store, self._address = store, address
        self._failure: Final = failure

    @property
    def where(self) -> str:
        """The address s3://BUCKET/PREFIX."""
        return self._address

    def check(self) -> None:
        """Raise BadUse unless the server creates a name only once.

        Servers that ignore `If-None-Match` would let two writers overwrite each other silently.
        The probe's object stays there: a right to delete isn't needed.
        """
        name = f"{_PROBES}{uuid4().hex}"
        if not self.create(name, _PROBE) or self.create(name, _PROBE):
            raise BadUse(
                "the server of the bucket ignores If-None-Match: two writers could overwrite "
                "each other",
                where=self._address,
                next="Use a server with conditional writes, or a folder.",
            )

    def create(self, name: str, content: bytes) -> bool:
        """Create an object whole. Return False if it exists."""
        exceptions = self._obstore.exceptions
        with self._reported(f"object {name} can't be written"):
            try:
                self._obstore.put(self._store, name, content, mode="create", use_multipart=False)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
        return True

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        with self._reported(f"object {name} can't be read"):
            try:
                return bytes(self._obstore.get(self._store, name).bytes())
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return None

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object; None if there is none."""
        with self._reported(f"object {name} can't be read"):
            try:
                return int(self._obstore.head(self._store, name)["size"])
            except (self._obstore.exceptions.NotFoundError, FileNotFoundError):
                return None

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects below `prefix`, sorted."""
        with self._reported("the bucket can't be listed"):
            pages = self._obstore.list(self._store, prefix=prefix.rstrip("/"))
            names = [str(entry["path"]) for page in pages for entry in page]
        yield from sorted(names, key=str.encode)

    def close(self) -> None:
        """Do nothing: the client's connections end with the process."""

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Turn the client's errors into `failure`, by their first line.

        The lines behind it are for the client's programmers, and may quote requests.
        """
        try:
            yield
        except (self._obstore.exceptions.BaseError, OSError) as error:
            reason = in_words(error).splitlines()[0][:300]
            raise self._failure(
                f"{what}: {reason}",
                where=self._address,
                next="Check that the server answers, and the rights and credentials of the client.",
            ) from None


def open_s3(
    address: str, options: Mapping[str, str], *, purpose: str, help: str
) -> tuple[Any, str]:
    """Return obstore's store for s3://BUCKET/PREFIX, and the address as people read it.

    options: obstore's names of S3's settings, such as endpoint, region, access_key_id and
    secret_access_key. Without them the client reads the variables AWS_*, and asks the machine for
    its role. purpose: as for ObjectBucket. help: what says how the options are given.

    Nothing is asked of the server yet. Raise BadUse for an unknown option or an address without a
    bucket.
    """
    stores = require_module("obstore.store", extra="archive", purpose=purpose)
    exceptions = require_module("obstore", extra="archive", purpose=purpose).exceptions
    bucket, _, prefix = address.removeprefix("s3://").strip("/").partition("/")
    if not bucket:
        raise BadUse(
            "the address names no bucket",
            where=address,
            next="Write s3://BUCKET or s3://BUCKET/PREFIX.",
        )
    endpoint = options.get("endpoint", "")
    client = {"allow_http": True} if endpoint.startswith("http://") else {}
    try:
        store = stores.S3Store(
            bucket, prefix=prefix or None, config=dict(options), client_options=client or None
        )
    except (exceptions.BaseError, TypeError, ValueError):  # their text may quote a value
        raise BadUse(
            "the settings of the bucket aren't accepted", where=address, next=help
        ) from None
    return store, f"s3://{bucket}/{prefix}".rstrip("/")
