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
from mirrorlog.ports.devices import BlockDevice

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
        for path in self._places(device):
            if (mark := _FORMAT.read(path)) is not None:
                return mark
        return None

    def write(self, marks: Collection[tuple[BlockDevice, PrimaryMark]]) -> None:
        contents: dict[Path, bytes] = {}
        apart: dict[Path, bytes] = {}
        for device, mark in marks:
            *_, fallback = places = self._places(device)
            apart[fallback] = contents[places[0]] = encode_mark(mark)
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
        for path in self._places(device):
            path.unlink(missing_ok=True)

    def _places(self, device: BlockDevice) -> tuple[Path, ...]:
        """Return where the mark of a device of this machine may lie, the first choice first.

        A device that is no file has one place, in the folder.
        """
        assert isinstance(device, FileDevice)
        real, beside, key = device.real_path(), tuple[Path](), device.identity.lasting
        if not device.is_block_device:
            beside, key = (real.with_name(f".{real.name}.mirrorlog-primary"),), None
        digest = blake2b((key or str(real)).encode(), digest_size=16).hexdigest()
        return (*beside, self._folder / f"{digest}.json")
