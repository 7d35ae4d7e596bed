"""A file that appears under its name only when it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mirrorlog.adapters.folders import sync_folder
from mirrorlog.errors import BadUse, MirrorlogError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new empty file beside `path`, which becomes `path` if all goes well.

    The content is durable before the rename. After an error the new file is removed, and a file
    that was under the name before stays. After a kill a file `.NAME.*.part` may be left.
    Raise BadUse if there is no such folder, MirrorlogError if the file can't be written.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BadUse("there is no such folder", where=str(folder), next="Create it first.")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=folder)
    except OSError as error:
        raise _failed(path, error) from error
    part = Path(name)
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        yield part
        os.fsync(descriptor)
        part.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        os.close(descriptor)
        with suppress(OSError):
            part.unlink()


def _umask() -> int:
    """Return the process's umask. Reading it means setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _failed(path: Path, error: OSError) -> MirrorlogError:
    return MirrorlogError(
        f"the file can't be written: {error.strerror or error}",
        where=str(path),
        next="Make room, or name another file with -o. A file of that name is as it was.",
    )
