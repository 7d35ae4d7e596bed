"""A file for what was read of a moving primary, until its image is written. It has no name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.ports.devices import BlockDevice


def open_staging(folder: Path, size_bytes: int) -> BlockDevice:
    """Return a sparse file of zeros in `folder`, which is gone when it is closed.

    Whatever ends the process, nothing is left. Raise DeviceFailed.
    """
    with os_errors_named(
        "making a file for what is read of the primary failed",
        folder,
        "Name a folder with enough space for what changed since the last point.",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix="backup-", suffix=".staging", dir=folder)
        path = Path(name)
        try:
            os.ftruncate(fd, size_bytes)
            return FileDevice(path, writable=True)
        finally:
            os.close(fd)
            path.unlink()
