"""Manifests: which files hold the commands of which positions. Pure.

A manifest is one line of JSON (RFC 8259) in ASCII, keys sorted, with the CRC-32 of the line without
it, as in adapters/sealed_json.py. It is written after its files, under a name that follows from
where its range begins: files that no manifest names don't exist for a reader. Manifests of one
history form a chain: each says where the one before ended, and names the SHA-256 of that manifest.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, TypeVar

from mirrorlog.domain.histories import History
from mirrorlog.errors import StateDamaged
from mirrorlog.json_text import parse_json

FORMAT: Final = "mirrorlog-archive"
VERSION: Final = 1
Decoded = TypeVar("Decoded")
_CHECKSUM: Final = re.compile(rb'"crc32":([0-9]+),')


class FileKind(StrEnum):
    """What a file of the archive holds."""

    COMMANDS = "commands"  # the messages of the commands topic, byte for byte
    ROWS = "rows"  # the columns of history, one row an extent, of one volume and day


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedFile:
    """One file of a manifest.

    size_bytes, sha256: of the file. rows: in it.
    first_position, last_position: of its commands, both included.
    first_appended_at_us, last_appended_at_us: the lowest and the highest time of appending in it,
        by the broker; None if a message has no time of the broker.
    volume, day: of a file of rows; None for one of commands. The day is YYYY-MM-DD in UTC, by the
        broker's time.
    longest_bytes: the longest extent; None if there is none, and for a file of commands. A question
        for block B needs the rows whose offset is at least B less this.
    """

    name: str
    kind: FileKind
    size_bytes: int
    sha256: str
    rows: int
    first_position: int
    last_position: int
    first_appended_at_us: int | None
    last_appended_at_us: int | None
    volume: str | None = None
    day: str | None = None
    longest_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LastMessage:
    """What tells the message at a position from any other that might take its place.

    anchor: histories.anchor_of it, in hexadecimal digits. at_us: its time, which tells messages
    apart that are no commands, and so may be the same bytes.
    """

    position: int
    anchor: str
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the archive holds of the positions `(after, through]` of one partition in one history.

    commands: how many messages there are in the range. Positions may have gaps, so they may be
        fewer than positions.
    last: the last message at or below `through` in this history, in this manifest or one before;
        None if there is none. If the topic holds another message at its position, positions were
        used again.
    previous_sha256: of the bytes of the manifest before this one in its chain; None for the first.
    hole: why the commands of the range are missing; None if they are there.
    written_by: the release that wrote it.
    """

    topic_name: str
    partition: int
    history: History
    after: int
    through: int
    commands: int
    last: LastMessage | None
    previous_sha256: str | None
    files: tuple[ArchivedFile, ...] = ()
    hole: str | None = None
    written_by: str = ""

    def files_of(self, kind: FileKind) -> tuple[ArchivedFile, ...]:
        """Return the files of one kind."""
        return tuple(file for file in self.files if file.kind is kind)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest."""
    return encode_fields(FORMAT, VERSION, asdict(manifest))


def encode_fields(form: str, version: int, fields: Mapping[str, object]) -> bytes:
    """Return the line with these fields, its format, its version and its checksum."""
    sealed = {**fields, "format": form, "version": version}
    return _line({**sealed, "crc32": zlib.crc32(_line(sealed))})


def decode_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in `content`.

    where: the name of the object, for errors. Raise StateDamaged if the bytes are no manifest of a
    known version, or fail the checksum.
    """
    return decode_fields(content, FORMAT, VERSION, _manifest, where)


def decode_fields(
    content: bytes,
    form: str,
    version: int,
    build: Callable[[dict[str, Any]], Decoded],
    where: str,
) -> Decoded:
    """Return what `build` makes of the fields of a line of encode_fields.

    where: as for decode_manifest, and so are the errors.
    """
    try:
        checksum = _CHECKSUM.search(content)  # the first one: what comes before it is no text
        if checksum is None:
            raise ValueError("it has no checksum")
        rest = content[: checksum.start()] + content[checksum.end() :]
        if zlib.crc32(rest) != int(checksum[1]):
            raise ValueError("it fails its checksum")
        fields = parse_json(rest)
        if fields.pop("format") != form:
            raise ValueError("it is no manifest")
        if (its_version := fields.pop("version")) != version:
            raise ValueError(f"its version is {its_version}, and this release reads {version}")
        return build(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "a field is wrong"
        raise StateDamaged(
            f"a manifest of the archive can't be read: {reason}",
            where=where,
            next="Restore the object from a copy of the archive, or run a newer mirrorlog.",
        ) from error


def _manifest(fields: dict[str, Any]) -> Manifest:
    files = tuple(
        ArchivedFile(**{**file, "kind": FileKind(file["kind"])}) for file in fields.pop("files")
    )
    history, last = History(**fields.pop("history")), fields.pop("last")
    return Manifest(
        **fields, history=history, files=files, last=None if last is None else LastMessage(**last)
    )


def _line(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of an object's bytes, in hexadecimal digits."""
    return sha256(content).hexdigest()


def longest_of(files: Iterable[ArchivedFile]) -> int:
    """Return the longest extent in these files, in bytes; 0 if they hold none."""
    return max((file.longest_bytes or 0 for file in files), default=0)
