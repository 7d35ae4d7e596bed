"""The store of a backup repository in memory: mirrorlog.ports.backup_stores.BackupStore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from mirrorlog.adapters.lease_locks import LEASE_S, LeaseLock, take_lease
from mirrorlog.ports.clock import Clock
from mirrorlog.simulation.manual_clock import ManualClock


def _do_nothing(step: str, name: str) -> None:
    del step, name


class MemoryBackups:
    """Objects in memory. Its lock is a lease by `clock`.

    before, after: called with the operation (`create`, `upload`, `replace`, `delete`, `read`) and
        the name, before it has an effect and after that. An exception of theirs is a failure of the
        store, or the end of the process, at that point. Tests change them.
    """

    def __init__(self, clock: Clock | None = None, *, lease_s: float = LEASE_S) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = _do_nothing
        self.after: Callable[[str, str], None] = _do_nothing
        self._clock: Final[Clock] = clock or ManualClock()
        self._lease_s: Final = lease_s

    @property
    def where(self) -> str:
        """A text for people."""
        return "a repository in memory"

    def create(self, name: str, content: bytes) -> bool:
        """Create an object. Return False if it exists."""
        return self._put("create", name, content)

    def upload(self, name: str, source: Path) -> bool:
        """Create an object of a file. Return False if it exists."""
        return self._put("upload", name, source.read_bytes())

    def replace(self, name: str, source: Path) -> None:
        """Create an object of a file, or replace it."""
        content = source.read_bytes()
        self.before("replace", name)
        self.objects[name] = content
        self.after("replace", name)

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        self.before("read", name)
        return self.objects.get(name)

    def read_range(self, name: str, *, offset: int, length: int) -> bytes | None:
        """Return up to `length` bytes of an object; None if there is none."""
        content = self.objects.get(name)
        return None if content is None else content[offset : offset + length]

    def download(self, name: str, target: Path) -> bool:
        """Write an object to a new file. Return False if there is none."""
        content = self.read(name)
        if content is not None:
            with target.open("xb") as file:
                file.write(content)
        return content is not None

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object; None if there is none."""
        content = self.objects.get(name)
        return None if content is None else len(content)

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the objects below `prefix`, sorted."""
        names = [name for name in self.objects if name.startswith(prefix)]
        yield from sorted(names, key=str.encode)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        self.before("delete", name)
        self.objects.pop(name, None)
        self.after("delete", name)

    def local_path(self, name: str) -> None:
        """Return None: nothing is in the file system."""
        del name

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Lend a temporary folder."""
        with TemporaryDirectory(prefix="mirrorlog-") as folder:
            yield Path(folder)

    def lock(self, purpose: str) -> LeaseLock:
        """Take the lock of the repository."""
        return take_lease(self, self._clock, purpose, lease_s=self._lease_s)

    def close(self) -> None:
        """Do nothing."""

    def _put(self, step: str, name: str, content: bytes) -> bool:
        self.before(step, name)
        is_new = name not in self.objects
        if is_new:
            self.objects[name] = bytes(content)
        self.after(step, name)
        return is_new
