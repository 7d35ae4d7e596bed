"""Where the mark of a primary is kept: a small file beside a file, .NAME.mirrorlog-primary.

A device has no such place, and the folder of a file may not be writable. The mark is then a file of
this machine's state folder, `primaries/`, named by a digest of the storage's lasting identity, or
of the path if it has none.

Format, version 1: as that of a secondary's mark (secondary_marks.py), with the fields of
PrimaryMark.
"""

from __future__ import annotations

import errno
import json
import zlib
from collections.abc import Collection
from dataclasses import asdict, fields
from hashlib import blake2b
from pathlib import Path
from typing import Final

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import create_folder, replace_files
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.ports.devices import BlockDevice, DeviceIdentity

MARK_FORMAT: Final = "mirrorlog.primary_mark"
_VERSION: Final = 1
_MAX_BYTES: Final = 8192
_NO_PLACE: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class PrimaryMarkFiles:
    """PrimaryMarks on this machine. folder: keeps the marks that can't lie beside their primary."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    def read(self, device: BlockDevice) -> PrimaryMark | None:
        address, identity = _place(device)
        for path in (_beside(address), self._apart(address, identity)):
            if path is not None and (mark := _read(path)) is not None:
                return mark
        return None

    def write(self, marks: Collection[tuple[BlockDevice, PrimaryMark]]) -> None:
        contents: dict[Path, bytes] = {}
        apart: dict[Path, bytes] = {}
        for device, mark in marks:
            address, identity = _place(device)
            fallback = self._apart(address, identity)
            apart[fallback] = contents[_beside(address) or fallback] = encode_mark(mark)
        try:
            if any(path in apart for path in contents):
                create_folder(self._folder)
            replace_files(contents)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise _failed("writing", next(iter(contents)), error) from error
            try:
                create_folder(self._folder)
                replace_files(apart)
            except OSError as second:
                raise _failed("writing", next(iter(apart)), second) from second

    def remove(self, device: BlockDevice) -> None:
        """Remove the mark of a primary. Harmless if there is none."""
        address, identity = _place(device)
        for path in (_beside(address), self._apart(address, identity)):
            if path is not None:
                path.unlink(missing_ok=True)

    def _apart(self, address: str, identity: DeviceIdentity) -> Path:
        key = identity.lasting if _beside(address) is None and identity.lasting else address
        return self._folder / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.json"


def encode_mark(mark: PrimaryMark) -> bytes:
    """Return the bytes of a mark on disk."""
    payload = {"format": MARK_FORMAT, "version": _VERSION, **asdict(mark)}
    return _line({**payload, "crc32": zlib.crc32(_line(payload))})


def decode_mark(content: bytes, where: str) -> PrimaryMark:
    """Return the mark that these bytes hold.

    where: names their source in the error. Raise StateDamaged unless the bytes are exactly those
    that encode_mark() makes.
    """
    try:
        document = json.loads(content[:_MAX_BYTES])
        mark = PrimaryMark(**{field.name: document[field.name] for field in fields(PrimaryMark)})
        if encode_mark(mark) == content:
            return mark
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadUse):
        pass
    raise StateDamaged(
        "the mark of a primary can't be trusted: it isn't what mirrorlog writes",
        where=where,
        next="Nothing is guessed. If the primary is the right one, remove this file: the whole "
        "volume then counts as dirty.",
    )


def _place(device: BlockDevice) -> tuple[str, DeviceIdentity]:
    """Return the real path of a device of this machine, and its identity."""
    assert isinstance(device, FileDevice)
    return str(Path(device.address).resolve()), device.identity


def _beside(address: str) -> Path | None:
    """Return where the mark of a file lies; None for a device, which has no such place."""
    path = Path(address)
    return path.with_name(f".{path.name}.mirrorlog-primary") if path.is_file() else None


def _read(path: Path) -> PrimaryMark | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed("reading", path, error) from error
    return decode_mark(content, str(path))


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _failed(doing: str, path: Path, error: OSError) -> DeviceFailed:
    return DeviceFailed(
        f"{doing} the mark of a primary failed: {error.strerror or error}",
        where=f"{path}, offset 0",
        next="Give this user access and free space there.",
    )
