"""The port to the files of the logs of commands (transparency/tiles.py).

The adapters are adapters/log_folder.py and simulation/memory_log_files.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol


class LogFiles(Protocol):
    """The files of one log, by their path. DeviceFailed if one can't be read or written."""

    @property
    def where(self) -> str:
        """The folder, for errors."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files. All of them are durable when the call returns.

        After a crash in the call, each may be whole, cut short or missing.
        """

    def replace(self, path: str, content: bytes) -> None:
        """Replace one file, durably: after a crash it has its old or its new content, whole."""

    def drop_partial(self, paths: Collection[str]) -> None:
        """Remove the partial files (`PATH.p/…`) of files that are whole and durable."""


class LogStore(Protocol):
    """The logs that one folder keeps."""

    def folders(self, partition: int) -> list[str]:
        """Return the folders of the partition's logs, as LogName.folder names them."""

    def open(self, folder: str) -> LogFiles:
        """Return the files of one log. The folder needn't exist yet."""
