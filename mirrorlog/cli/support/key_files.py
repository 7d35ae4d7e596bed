"""Files of keys: they are created, and never replaced."""

from __future__ import annotations

import os
from pathlib import Path

from mirrorlog.adapters.folders import sync_folder
from mirrorlog.errors import BadUse


def create_key_file(path: Path, content: bytes, mode: int) -> None:
    """Create the file durably. Raise BadUse if there is one of that name: it isn't replaced."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise BadUse(
            "a key is never replaced, and there is a file of this name",
            where=str(path),
            next="Name another file, or remove this one.",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.absolute().parent)
