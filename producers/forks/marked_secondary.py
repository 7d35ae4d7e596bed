"""A secondary that a host opens only if its site has marked it, and checks at each flush.

A mark (mirrorlog/adapters/secondary_marks.py) lies beside a file. A block device is known by its
name instead (mirrorlog/adapters/device_identity.py), which its site reports.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mirrorlog.adapters.addresses import open_file, path_of
from mirrorlog.adapters.device_identity import device_name
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import ImageUser, lock_secondary
from mirrorlog.adapters.secondary_marks import mark_path, read_mark
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import Data

_NEXT: Final = (
    "Give --fork the address of that site's secondary, and start the site first: it marks its "
    "secondaries. Until then the site copies what is written."
)


def open_marked_secondary(address: str, *, site: str, volume: str) -> MarkedSecondary:
    """Open the secondary of `volume` at `site` for writing, as SecondaryOpener says."""
    path = path_of(address)
    device = open_file(address, writable=True)
    try:
        secondary_id = device_name(device.identity)
        if secondary_id is None:
            secondary_id = _check_mark(path, site, volume).secondary_id
        lock_secondary(device.fileno(), device.address, ImageUser.FORK)
        return MarkedSecondary(device, path, secondary_id, site=site, volume=volume)
    except BaseException:
        device.close()
        raise


class MarkedSecondary:
    """ForkedDevice on a file or block device."""

    def __init__(
        self, device: FileDevice, path: Path, secondary_id: str, *, site: str, volume: str
    ) -> None:
        self._device: Final = device
        self._path: Final = path
        self._site, self._volume = site, volume
        self._is_file: Final = device_name(device.identity) is None
        self.secondary_id: Final = secondary_id

    @property
    def size_bytes(self) -> int:
        """The size when it was opened."""
        return self._device.size_bytes

    def fileno(self) -> int:
        """Return the descriptor, which has the locks."""
        return self._device.fileno()

    def pwrite(self, offset: int, data: Data) -> None:
        """Write all of `data`."""
        self._device.pwrite(offset, data)

    def pwrite_in_order(self, writes: Sequence[tuple[int, bytes]]) -> None:
        """Do as WritesInOrder says."""
        self._device.pwrite_in_order(writes)

    def zero(self, *, offset: int, length: int) -> None:
        """Make the range read as zeros."""
        self._device.zero(offset=offset, length=length)

    def flush(self) -> None:
        """Make the writes durable, then check that this still is the site's secondary.

        A site that begins to copy everything draws a new id first. So what was flushed before this
        check is in the file that the site copies to.
        """
        self._device.flush()
        try:
            is_there = os.path.samestat(os.fstat(self._device.fileno()), self._path.stat())
        except OSError:
            is_there = False
        if not is_there:
            raise DeviceFailed(
                "another file or device is at the address of the secondary, or none",
                where=f"{self._path}, offset 0",
            )
        if self._is_file:
            mark = _check_mark(self._path, self._site, self._volume)
            if mark.secondary_id != self.secondary_id:
                raise DeviceFailed(
                    "its site has begun to copy it from nothing", where=f"{self._path}, offset 0"
                )

    def close(self) -> None:
        """Release the secondary and its locks."""
        self._device.close()


def _check_mark(path: Path, site: str, volume: str) -> SecondaryMark:
    """Return the mark beside a secondary. Raise DeviceFailed unless it names site and volume."""
    mark = read_mark(mark_path(path))
    if mark is None:
        raise DeviceFailed(
            f"nothing says that this is the secondary of volume {volume} at {site}: no site has "
            "marked it",
            where=f"{path}, offset 0",
            next=_NEXT,
        )
    if (mark.site, mark.volume) != (site, volume):
        raise DeviceFailed(
            f"this is the secondary of volume {mark.volume} at {mark.site}, not of volume "
            f"{volume} at {site}",
            where=f"{path}, offset 0",
            next=_NEXT,
        )
    return mark
