"""The locks of a site's workers in its folder: a file for each, one byte of which is locked.

`workers/start.lock` is locked while a worker starts or ends, `workers/N.lock` by the worker of slot
N, `partitions/P.lock` by the worker of partition P. The files of slots and partitions name the
process that locked them last, for people. A file that is there says nothing: only its lock does. So
no file is ever removed.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import create_folder, holder_line
from mirrorlog.adapters.ofd_locks import is_taken, is_unlocked, lock_byte
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.consumers.workers.group_files import NO_ACCESS_NEXT
from mirrorlog.errors import BadUse

_SUFFIX: Final = ".lock"
_BYTE: Final = 0


class FolderLocks:
    """WorkerLocks in a site's folder."""

    def __init__(self, folder: Path) -> None:
        """Create the folders if needed. Raise DeviceFailed."""
        self._workers: Final = folder.absolute() / "workers"
        self._partitions: Final = folder.absolute() / "partitions"
        self._start_fd: int | None = None
        self._slot: tuple[int, int] | None = None  # the slot and its descriptor
        self._fds: Final[dict[int, int]] = {}
        for path in (self._workers, self._partitions):
            with _named("making a folder of locks", path):
                create_folder(path)

    def lock_start(self) -> bool:
        """Lock the site for the start or the end of this worker. Return False if another has it."""
        if self._start_fd is None:
            self._start_fd = _locked(self._workers / f"start{_SUFFIX}")
        return self._start_fd is not None

    def unlock_start(self) -> None:
        """Let other workers start and end."""
        fd, self._start_fd = self._start_fd, None
        if fd is not None:
            os.close(fd)

    def lock_slot(self) -> int:
        """Lock the lowest free slot, and return it."""
        if self._slot is None:
            for slot in count():
                if (fd := _locked(self._workers / f"{slot}{_SUFFIX}")) is not None:
                    self._slot = slot, fd
                    break
        assert self._slot is not None
        return self._slot[0]

    def unlock_slot(self) -> None:
        """Unlock the own slot. Partitions stay locked."""
        slot, self._slot = self._slot, None
        if slot is not None:
            os.close(slot[1])

    def live_slots(self) -> frozenset[int]:
        """Return the slots that are locked, with the own one."""
        with _named("looking for workers", self._workers):
            names = [path for path in self._workers.iterdir() if path.suffix == _SUFFIX]
            slots = {int(path.stem): path for path in names if path.stem.isdecimal()}
            own = set() if self._slot is None else {self._slot[0]}
            return frozenset(
                own | {slot for slot, path in slots.items() if slot not in own and _is_locked(path)}
            )

    def lock_partition(self, partition: int) -> bool:
        """Lock a partition. Return False if another worker has it, True if this one has it."""
        if partition not in self._fds:
            fd = _locked(self._partitions / f"{partition}{_SUFFIX}")
            if fd is not None:
                self._fds[partition] = fd
        return partition in self._fds

    def free_partitions(self, count: int) -> frozenset[int]:
        """Return the partitions below `count` that nobody has locked."""
        with _named("looking for partitions without a worker", self._partitions):
            return frozenset(
                number
                for number in range(count)
                if number not in self._fds and not self._is_partition_locked(number)
            )

    def unlock_partition(self, partition: int) -> None:
        """Unlock a partition. Does nothing if it isn't locked."""
        if (fd := self._fds.pop(partition, None)) is not None:
            os.close(fd)

    def _is_partition_locked(self, partition: int) -> bool:
        try:
            return _is_locked(self._partitions / f"{partition}{_SUFFIX}")
        except FileNotFoundError:  # nobody has ever locked it
            return False

    def close(self) -> None:
        """Unlock everything, the slot last."""
        for partition in list(self._fds):
            self.unlock_partition(partition)
        self.unlock_slot()
        self.unlock_start()


def _locked(path: Path) -> int | None:
    """Lock a file, which is made if needed; return its descriptor. None if another has it."""
    with _named("locking", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock_byte(fd, fcntl.F_WRLCK, _BYTE)
        except OSError as error:
            os.close(fd)
            if is_taken(error):
                return None
            raise BadUse(
                f"the workers of a site need a file system with locks: {error.strerror or error}",
                where=str(path),
                next="Keep the site's folder (--dir) on a local disk, or run the site in one "
                "process, without --worker.",
            ) from error
        with suppress(OSError):  # a full disk doesn't forbid the lock
            os.ftruncate(fd, 0)
            os.pwrite(fd, holder_line(), 0)
        return fd


def _is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not is_unlocked(fd, _BYTE)
    finally:
        os.close(fd)


def _named(doing: str, path: Path) -> AbstractContextManager[None]:
    """Raise an OSError of the block as DeviceFailed."""
    return os_errors_named(f"{doing} failed", path, NO_ACCESS_NEXT)
