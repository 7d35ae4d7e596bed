"""Opens the secondary of a site for reading, and keeps its writers off until it is closed.

- A file or a block device is locked itself (image_locks.lock_still): hosts, sites, forks and QEMU
  on this machine keep off it.
- An NBD export can't be locked. A lock in the site's folder (lock_export) keeps off the processes
  that use this folder: the site, its workers, a promotion. Others are the server's to keep off, as
  for the site itself. The name of an export is a name, so the connection is kept for as long as the
  secondary is open, and the export must hold all samples of what the site wrote, as by each new
  connection of the site. No cycle has begun since the site saved that it is consistent, so nothing
  explains a sample that differs.
"""

from __future__ import annotations

import os
from pathlib import Path

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.image_locks import lock_still
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri
from mirrorlog.consumers.failover.held_secondary import meet_saved
from mirrorlog.consumers.resync.samples import differing_samples
from mirrorlog.consumers.resync.secondaries import FoundDevice
from mirrorlog.consumers.secondary_exports import lock_export, with_mark
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.devices import BlockDevice


class StillExport(NbdDevice):
    """A secondary on an NBD server, which the processes of its site keep off until close()."""

    def __init__(self, uri: NbdUri, lock_fd: int) -> None:
        """Connect. lock_fd: of lock_export(); it is closed with the device, or if this fails."""
        self._lock_fd = lock_fd
        try:
            super().__init__(uri, writable=False, reconnects=False)
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        """End the connections, then unlock."""
        super().close()
        self._unlock()

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)


def open_still_file(path: Path) -> FileDevice | None:
    """Return the file or device, locked; None if somebody has it open to write.

    Raise DeviceFailed.
    """
    device = FileDevice(path, writable=False)
    try:
        if lock_still(device.fileno()):
            return device
    except BaseException:
        device.close()
        raise
    device.close()
    return None


def open_still_export(folder: Path, volume: Volume, uri: NbdUri) -> StillExport | None:
    """Return the export, locked; None if another process that uses the site's folder has it.

    Raise OSError, DeviceFailed, and BadUse if libnbd is missing.
    """
    fd = lock_export(folder, volume.volume)
    return None if fd is None else StillExport(uri, fd)


def look_at_export(
    site: str, folder: Path, volume: Volume, device: BlockDevice
) -> tuple[SecondaryState | None, str | None]:
    """Return what the site has saved of its export, and why that isn't about this one.

    Nobody may write to it meanwhile. Raise DeviceFailed.
    """
    present = FoundDevice(size_bytes=device.size_bytes, identity=device.identity, is_zeroed=False)
    saved, doubt = meet_saved(site, folder, volume, lambda _: with_mark(present, folder, volume))
    if doubt is not None or saved is None:
        return saved, doubt
    differing = differing_samples(device, saved.samples)
    if not differing:
        return saved, None
    return saved, (
        f"{len(differing)} of {len(saved.samples)} samples of what the site wrote aren't in this "
        "export: it is another one, went back in time, or a stranger writes to it"
    )
