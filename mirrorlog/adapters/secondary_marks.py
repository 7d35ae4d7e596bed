"""Where the mark of a secondary is kept: a small file beside a file, .NAME.mirrorlog.

A device has no such place. Its site keeps the mark in its own folder (consumers/secondary_files.py)
and a fork knows the device by its serial number.

Format, version 1: one line of JSON (RFC 8259), keys sorted, without spaces, in ASCII. It holds the
fields of SecondaryMark, `format`, `version`, and `crc32`: the CRC-32 (ISO 3309, zlib.crc32) of the
line without its `crc32`. A file that differs from this in any byte is damaged.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import replace_files
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged

MARK_FORMAT: Final = "mirrorlog.secondary_mark"
_VERSION: Final = 1
_MAX_BYTES: Final = 4096


def mark_path(secondary: Path) -> Path:
    """Return the path of the mark of a secondary that is a file. Symbolic links are followed."""
    real = secondary.resolve()
    return real.with_name(f".{real.name}.mirrorlog")


def encode_mark(mark: SecondaryMark) -> bytes:
    """Return the bytes of a mark on disk."""
    payload = {"format": MARK_FORMAT, "version": _VERSION, **asdict(mark)}
    return _line({**payload, "crc32": zlib.crc32(_line(payload))})


def decode_mark(content: bytes, where: str) -> SecondaryMark:
    """Return the mark that these bytes hold.

    where: names their source in the error. Raise StateDamaged unless the bytes are exactly those
    that encode_mark() makes.
    """
    try:
        document = json.loads(content[:_MAX_BYTES])
        mark = SecondaryMark(
            **{field.name: document[field.name] for field in fields(SecondaryMark)}
        )
        if encode_mark(mark) == content:
            return mark
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadUse):
        pass
    raise StateDamaged(
        "the mark of a secondary can't be trusted: it isn't what a site writes",
        where=where,
        next="Nothing is guessed. If the secondary may be overwritten, remove this file: its site "
        "then copies everything.",
    )


def read_mark(path: Path) -> SecondaryMark | None:
    """Return the mark in a file; None if there is none.

    Raise StateDamaged if it is damaged, DeviceFailed if it can't be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed("reading the mark of a secondary", path, error) from error
    return decode_mark(content, str(path))


def check_no_secondary(path: Path) -> None:
    """Raise BadUse if a site has marked the file at `path` as its secondary.

    Raise StateDamaged and DeviceFailed as read_mark() does.
    """
    mark = read_mark(mark_path(path))
    if mark is not None:
        raise BadUse(
            f"this is the secondary of volume {mark.volume} at site {mark.site}: its mark says so",
            where=str(path),
            next="The site writes to it. Name the right primary. If it is to be a primary from now "
            f"on, see that the site doesn't run, and remove the mark ({mark_path(path).name}).",
        )


def write_marks(marks: Mapping[Path, SecondaryMark]) -> None:
    """Write marks durably, each in place of the one before. Raise DeviceFailed."""
    try:
        replace_files({path: encode_mark(mark) for path, mark in marks.items()})
    except OSError as error:
        raise _failed("writing the mark of a secondary", next(iter(marks)), error) from error


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _failed(doing: str, path: Path, error: OSError) -> DeviceFailed:
    return DeviceFailed(
        f"{doing} failed: {error.strerror or error}",
        where=f"{path}, offset 0",
        next="Give this user access and free space there. The site tries again.",
    )
