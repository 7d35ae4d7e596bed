"""Where the mark of a primary is kept: a small file beside a file, .NAME.mirrorlog-primary.

A device has no such place, and the folder of a file may not be writable. The mark is then a file of
this machine's state folder, `primaries/`, named by a digest of the storage's lasting identity, or
of the path if it has none.

Format: mark_format.py.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path
from typing import Final

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import create_folder, replace_files
from mirrorlog.adapters.mark_format import MarkFormat
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.ports.devices import BlockDevice, DeviceIdentity

_FORMAT: Final = MarkFormat(
    kind=PrimaryMark,
    name="mirrorlog.primary_mark",
    max_bytes=8192,
    what="the mark of a primary",
    writer="mirrorlog",
    next_if_damaged="Nothing is guessed. If the primary is the right one, remove this file: the "
    "whole volume then counts as dirty.",
    next_if_failed="Give this user access and free space there.",
)
encode_mark: Final = _FORMAT.encode
decode_mark: Final = _FORMAT.decode
_NO_PLACE: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class PrimaryMarkFiles:
    """PrimaryMarks on this machine. folder: keeps the marks that can't lie beside their primary."""

    def __init__(self, folder: Path) -> None:
        self._folder: Final = folder

    def read(self, device: BlockDevice) -> PrimaryMark | None:
        if not isinstance(device, FileDevice):
            return None  # nothing can lie beside an NBD export, and its name is no identity
        address, identity = _place(device)
        for path in (_beside(address), self._apart(address, identity)):
            if path is not None and (mark := _FORMAT.read(path)) is not None:
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
                raise _FORMAT.failed("writing", next(iter(contents)), error) from error
            try:
                create_folder(self._folder)
                replace_files(apart)
            except OSError as second:
                raise _FORMAT.failed("writing", next(iter(apart)), second) from second

    def remove(self, device: BlockDevice) -> None:
        """Remove the mark of a primary. Harmless if there is none."""
        address, identity = _place(device)
        for path in (_beside(address), self._apart(address, identity)):
            if path is not None:
                path.unlink(missing_ok=True)

    def _apart(self, address: str, identity: DeviceIdentity) -> Path:
        key = identity.lasting if _beside(address) is None and identity.lasting else address
        return self._folder / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.json"


def _place(device: BlockDevice) -> tuple[str, DeviceIdentity]:
    """Return the real path of a device of this machine, and its identity."""
    assert isinstance(device, FileDevice)
    return str(Path(device.address).resolve()), device.identity


def _beside(address: str) -> Path | None:
    """Return where the mark of a file lies; None for a device, which has no such place."""
    path = Path(address)
    return path.with_name(f".{path.name}.mirrorlog-primary") if path.is_file() else None
