"""The files of the logs of commands, in a folder (the port mirrorlog.ports.log_files)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from mirrorlog.adapters.folders import create_folder, replace_files, sync_folder
from mirrorlog.adapters.os_failures import os_errors_named

_NEXT: Final = "Look at the file system there (space, permissions), then start this again."


class LogFolder:
    """The folder of one log."""

    def __init__(self, path: Path) -> None:
        """path: needn't exist before the first file is written."""
        self._path = path

    @property
    def where(self) -> str:
        """The folder, for errors."""
        return str(self._path)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""
        with os_errors_named("a file of the log can't be read", self._path / path, _NEXT):
            try:
                return (self._path / path).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, then make them and their names durable (fsync(2))."""
        with os_errors_named("files of the log can't be written", self._path, _NEXT):
            paths = [self._path / name for name in files]
            folders = dict.fromkeys(path.parent for path in paths)
            for folder in folders:
                create_folder(folder)
            for path, content in zip(paths, files.values(), strict=True):
                path.write_bytes(content)
            for path in paths:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            for folder in folders:
                sync_folder(folder)

    def replace(self, path: str, content: bytes) -> None:
        """Replace one file, durably and as a whole."""
        target = self._path / path
        with os_errors_named("a file of the log can't be replaced", target, _NEXT):
            create_folder(target.parent)
            replace_files({target: content})

    def drop_partial(self, paths: Collection[str]) -> None:
        """Remove the partial files of files that are whole."""
        for path in paths:
            shutil.rmtree(self._path / f"{path}.p", ignore_errors=True)


class LogFolders:
    """The folders of all logs, below one folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def folders(self, partition: int) -> list[str]:
        """Return the folders of the partition's logs."""
        parent = self._path / f"partition-{partition}"
        with os_errors_named("the folder of the logs can't be read", parent, _NEXT):
            names = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
        return [f"{parent.name}/{name}" for name in names]

    def open(self, folder: str) -> LogFolder:
        """Return the files of one log."""
        return LogFolder(self._path / folder)
