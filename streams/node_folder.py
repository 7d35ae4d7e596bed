"""The folder of one worker's state, which one process at a time uses."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import lock_folder, sync_folder
from mirrorlog.adapters.machine import folder_owner
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings

_FLOCK: Final = struct.Struct("@hhqqi4x")  # struct flock64 of Linux


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """A worker's folder, locked until close() or the end of the process.

    instance: what tells this worker from every other one, also from one of the same name on another
        machine, and from one on a copy of the folder.
    """

    path: Path
    instance: str
    lock_fd: int

    def close(self) -> None:
        """Unlock the folder."""
        os.close(self.lock_fd)


def open_node_folder(settings: Settings) -> NodeFolder:
    """Lock the worker's folder, and create it if it doesn't exist.

    1. The folder that an earlier release kept under its default name gets today's default name.
    2. The folder is locked.
    3. It gets an identity, if it has none.

    Raise BadUse, which names the process, if another worker uses the folder; DeviceFailed if the
    folder can't be read or written.
    """
    path = settings.state_dir / settings.node_name
    with os_errors_named(
        "the worker's folder can't be used",
        path,
        "Look at the file system there (space, permissions), then start the node again.",
    ):
        if (old := settings.node_folder) != path:
            _rename_old_folder(old, path)  # 1
        try:
            lock_fd = lock_folder(path)  # 2
        except BadUse as error:
            raise BadUse(
                f"a worker of the node named '{settings.node_name}' runs already: {error.what}",
                where=error.where,
                next="Stop that one, or give this one a name of its own (MIRRORLOG_NODE_NAME).",
            ) from error
        try:
            return NodeFolder(path, folder_owner(path).text, lock_fd)  # 3
        except BaseException:
            os.close(lock_fd)
            raise


def _rename_old_folder(old: Path, new: Path) -> None:
    """Give the folder of an earlier release today's name.

    Raise BadUse if a worker uses it. Workers of earlier releases didn't lock it, but RocksDB locks
    each of its tables (fcntl(2), F_SETLK on the file LOCK).
    """
    lock_fd = lock_folder(old)
    try:
        if any(_is_locked(file) for file in old.glob("**/tables/log-*.db/LOCK")):
            raise BadUse(
                "a worker of an earlier release uses this folder",
                where=str(old),
                next="Stop it, then start this one: it takes the folder over.",
            )
        old.rename(new)
        sync_folder(new.parent)
    finally:
        os.close(lock_fd)


def _is_locked(path: Path) -> bool:
    """Return whether another process has a lock on the file."""
    with path.open("rb") as file:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file.fileno(), fcntl.F_GETLK, asked)
    return int(_FLOCK.unpack(answer)[0]) != fcntl.F_UNLCK
