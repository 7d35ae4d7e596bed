"""Walks the folders of a file system with The Sleuth Kit, and claims the ranges of each file.

Only what is allocated counts: a deleted file keeps the addresses of blocks that are another file's
now. `$OrphanFiles` and what else the library makes up has no range that a file system knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import pytsk3

from mirrorlog.consumers.file_names.map_builder import AreaMap, Tier
from mirrorlog.consumers.file_names.name_table import MAX_DEPTH, ROOT
from mirrorlog.consumers.file_names.owners import Owner, OwnerKind

READ_FAILED: Final = (OSError, RuntimeError, ValueError)
"""What pytsk3 raises for a damaged file system."""
ALLOCATED: Final = 0x01
"""The flag of names and of inodes that are in use."""
_NOT_STORED: Final = 0x01 | 0x02
"""The flags of a run that no block holds: filler, and a hole (TSK_FS_ATTR_RUN_FLAG_ENUM)."""
_MAPS: Final = frozenset({0x1001, 0x1002})
"""The types of runs of indirect blocks (ext2, FFS) and of extent nodes (ext4)."""
_NTFS_DATA: Final = 128
_NTFS_INDEXES: Final = frozenset({144, 160, 176})
_DEFAULT: Final = 1
_PLAIN: Final = frozenset({_DEFAULT, _NTFS_DATA, *range(0x1100, 0x1103)})
"""The types of attributes that are the content of a file; 0x1100 to 0x1102 are those of HFS+."""
IN_USE: Final = (
    "the file system says that it is in use, or wasn't unmounted in order: what its journal or the "
    "memory of its machine holds isn't in the mapping yet"
)
"""The note on a dirty file system that has a journal."""
_SKIPPED: Final = frozenset({b".", b"..", b"$OrphanFiles"})


@dataclass(kw_only=True)
class TskWalk:
    """One walk over a file system. run() is called once.

    journals: the inodes of journals. metadata: the inodes that hold what is no user's file.
    encrypted: inodes of folders whose names are encrypted.
    seen: the inodes that have been claimed.
    unread: how many folders and files couldn't be read.
    """

    fs: Any
    area: AreaMap
    has_block_zero: bool
    journals: frozenset[int] = frozenset()
    metadata: frozenset[int] = frozenset()
    encrypted: frozenset[int] = frozenset()
    seen: set[int] = field(default_factory=set)
    unread: int = 0

    def run(self) -> None:
        """Claim every file that a folder names, and the folders themselves."""
        root = int(self.fs.info.root_inum)
        self.claim_inode(root)
        folders = [(root, ROOT, 0)]
        walked = {root}
        while folders:
            inode, row, depth = folders.pop()
            for inside, inside_row in self._read_folder(inode, row):
                if inside not in walked and depth < MAX_DEPTH:
                    walked.add(inside)
                    folders.append((inside, inside_row, depth + 1))

    def _read_folder(self, folder: int, row: int) -> list[tuple[int, int]]:
        """Claim what a folder names. Return (inode, row of its name) of the folders in it."""
        inside: list[tuple[int, int]] = []
        try:
            for entry in self.fs.open_dir(inode=folder):
                name = entry.info.name
                if not int(name.flags) & ALLOCATED or name.name in _SKIPPED:
                    continue
                inode = int(name.meta_addr)
                text = name.name
                if folder in self.encrypted:
                    text = f"(encrypted name of inode {inode})".encode()
                new = self.area.builder.names.add(
                    text, area=self.area.place, inode=inode, parent=row
                )
                meta = entry.info.meta
                if meta is None or not int(meta.flags) & ALLOCATED:
                    continue
                self._claim_file(entry, inode)
                if int(meta.type) == int(pytsk3.TSK_FS_META_TYPE_DIR):
                    inside.append((inode, new))
        except READ_FAILED:
            self.unread += 1
        return inside

    def notes(self) -> list[str]:
        """Return what a reader of names has to know of the walk so far."""
        return [f"{self.unread} folders or files couldn't be read"] if self.unread else []

    def claim_inode(self, inode: int, known_as: tuple[OwnerKind, str] | None = None) -> None:
        """Claim a file by its inode, whatever its names are.

        known_as: what all of it is, and the detail; None: what each of its attributes says.
        """
        try:
            file = self.fs.open_meta(inode)
        except READ_FAILED:
            self.unread += 1
            return
        if file.info.meta is not None and int(file.info.meta.flags) & ALLOCATED:
            self._claim_file(file, inode, known_as)

    def _claim_file(
        self, file: Any, inode: int, known_as: tuple[OwnerKind, str] | None = None
    ) -> None:
        if inode in self.seen:
            return
        self.seen.add(inode)
        owners: dict[tuple[OwnerKind, str], int] = {}
        try:
            for attribute in file:
                kind, detail = known_as or self._kind_of(file, attribute, inode)
                for run in attribute:
                    if int(run.flags) & _NOT_STORED or not (run.addr or self.has_block_zero):
                        continue
                    owner = owners.get((kind, detail))
                    if owner is None:
                        owner = owners[kind, detail] = self.area.owner(
                            Owner(kind=kind, first_inode=inode, last_inode=inode, detail=detail)
                        )
                    self._claim_run(int(run.addr), int(run.len), owner)
        except READ_FAILED:
            self.unread += 1

    def _claim_run(self, block: int, blocks: int, owner: int) -> None:
        size = int(self.fs.info.block_size)
        self.area.claim(Tier.USED, block * size, blocks * size, owner)

    def _kind_of(self, file: Any, attribute: Any, inode: int) -> tuple[OwnerKind, str]:
        """Return what an attribute of a file is, and the name of its stream, if it has one."""
        kind, name = int(attribute.info.type), attribute.info.name
        if inode in self.journals:
            return OwnerKind.JOURNAL, ""
        if kind in _MAPS:
            return OwnerKind.FILE_MAP, ""
        type_number = int(file.info.meta.type)
        stream = name.decode("utf-8", "backslashreplace") if name else ""
        if inode in self.metadata or type_number == int(pytsk3.TSK_FS_META_TYPE_VIRT):
            return OwnerKind.METADATA, stream
        if type_number == int(pytsk3.TSK_FS_META_TYPE_DIR) and kind in _PLAIN | _NTFS_INDEXES:
            return OwnerKind.DIRECTORY, ""
        if kind not in _PLAIN:
            return OwnerKind.ATTRIBUTES, stream
        if type_number == int(pytsk3.TSK_FS_META_TYPE_LNK):
            return OwnerKind.LINK, ""
        return OwnerKind.FILE, f"stream {stream}" if stream and kind == _NTFS_DATA else ""
