"""The files of the logs of commands, in memory (the port mirrorlog.ports.log_files)."""

from __future__ import annotations

from collections.abc import Collection, Mapping


class LogFilesCrashed(Exception):
    """The step at which the test wanted a crash."""


class MemoryLogStore:
    """Logs in memory.

    files: by folder and path, what is on the disk. Tests look into it and damage it.
    steps_left: writing raises LogFilesCrashed after so many steps; None: never. A step is the
        writing of a half of a file, a file becoming whole, a rename, or a removal.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.steps_left: int | None = None

    def folders(self, partition: int) -> list[str]:
        """Return the folders of the partition's logs."""
        return sorted(name for name in self.files if name.startswith(f"partition-{partition}/"))

    def open(self, folder: str) -> MemoryLogFiles:
        """Return the files of one log."""
        return MemoryLogFiles(self, folder)

    def take_step(self) -> None:
        """Raise LogFilesCrashed if the test wants a crash here."""
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise LogFilesCrashed
            self.steps_left -= 1


class MemoryLogFiles:
    """The files of one log."""

    def __init__(self, store: MemoryLogStore, folder: str) -> None:
        self._store, self._folder = store, folder

    @property
    def where(self) -> str:
        """The folder, for errors."""
        return self._folder

    @property
    def _files(self) -> dict[str, bytes]:
        return self._store.files.setdefault(self._folder, {})

    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""
        return self._store.files.get(self._folder, {}).get(path)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, each in two halves."""
        for path, content in files.items():
            self._store.take_step()
            self._files[path] = content[: len(content) // 2]
            self._store.take_step()
            self._files[path] = content

    def replace(self, path: str, content: bytes) -> None:
        """Replace one file as a whole."""
        self._store.take_step()
        self._files[path] = content

    def drop_partial(self, paths: Collection[str]) -> None:
        """Remove the partial files of files that are whole."""
        for path in paths:
            for name in [name for name in self._files if name.startswith(f"{path}.p/")]:
                self._store.take_step()
                del self._files[name]
