"""Devices on new files, of kinds that not every file system can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.errors import BadUse


def created_file(kind: type[FileDevice], path: Path, size_bytes: int) -> FileDevice:
    """Return a new device of this kind. Skip the test if the file system can't do it."""
    try:
        return kind.create(path, size_bytes)
    except BadUse as error:
        pytest.skip(str(error))
