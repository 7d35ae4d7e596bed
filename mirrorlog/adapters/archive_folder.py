"""An archive in a folder: the port mirrorlog.ports.archive_stores.ArchiveStore."""

from __future__ import annotations

from pathlib import Path

from mirrorlog.adapters.object_folder import ObjectFolder
from mirrorlog.errors import ArchiveFailed


class FolderArchive(ObjectFolder):
    """The objects of an archive are files below a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, failure=ArchiveFailed, noun="archive")
