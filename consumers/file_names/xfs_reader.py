"""Maps an XFS file system by xfs_db, which reads a whole file or device of this machine.

Names come from its `ls`, which prints the length of each: a name may hold whatever a line may.
What is neither free nor in a file, and is no inode in use, isn't told apart: trees of free space
and of inodes, and files that are deleted and still open.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from mirrorlog.consumers.file_names.layout_reading import UnsupportedLayout
from mirrorlog.consumers.file_names.map_builder import AreaMap, Tier
from mirrorlog.consumers.file_names.name_table import MAX_DEPTH, ROOT
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind

MAGIC: Final = b"XFSB"
_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_BATCH: Final = 5_000
_HEADER_SECTORS: Final = 4
_ENTRY: Final = re.compile(rb"\d+ +(\d+) +(\S+) +0x[0-9a-f]{8} +(\d+) ")
_CURRENT: Final = re.compile(rb"current inode number is (\d+)\n")
_RUN: Final = re.compile(
    rb"(data|attr) offset \d+ startblock \d+ \((\d+)/(\d+)\) count (\d+) flag \d\n"
)
_KINDS: Final = {b"directory": OwnerKind.DIRECTORY, b"symlink": OwnerKind.LINK}
_DIRTY: Final = (
    "the file system is mounted, or wasn't unmounted in order: what its log or the memory of its "
    "machine holds isn't in the mapping yet"
)
_REST: Final = "metadata isn't told from files that are deleted and still open"


class FolderEntry(NamedTuple):
    """A name in a folder. folder, inode: of the folder, and of what it names."""

    folder: int
    inode: int
    type_name: bytes
    name: bytes


class FileRun(NamedTuple):
    """A run of blocks of a file. is_attribute: they hold attributes and not its data."""

    inode: int
    group: int
    block: int
    blocks: int
    is_attribute: bool


@dataclass(frozen=True, slots=True)
class XfsSuperblock:
    """What the superblock says of the layout, by the names of its fields."""

    fields: dict[str, int]

    def __getitem__(self, name: str) -> int:
        return self.fields[name]

    def byte_of(self, group: int, block: int) -> int:
        """Return the byte where a block of an allocation group begins."""
        return (group * self["agblocks"] + block) * self["blocksize"]

    def inode_block(self, inode: int) -> tuple[int, int]:
        """Return the byte of the block that holds an inode, and the first inode in it."""
        fs_block = inode >> self["inopblog"]
        group, block = fs_block >> self["agblklog"], fs_block & ((1 << self["agblklog"]) - 1)
        return self.byte_of(group, block), fs_block << self["inopblog"]


def map_xfs(path: str | None, area: AreaMap, bare: Area) -> None:
    """Claim everything of an XFS file system. path: of the file or device that it is in.

    Raise UnsupportedLayout if xfs_db isn't here, or can't read that.
    """
    if path is None or area.start:
        raise UnsupportedLayout(
            "XFS in a partition or on an NBD export, where xfs_db reads nothing"
        )
    if shutil.which("xfs_db", path=_PATH) is None:
        raise UnsupportedLayout("XFS, and xfs_db, which reads it, isn't installed (xfsprogs)")
    xfs = _superblock(path)
    _claim_layout(path, xfs, area)
    unread = _claim_files(path, xfs, area)
    is_dirty = _is_dirty(path)
    notes = [*bare.notes, _REST, *([_DIRTY] if is_dirty else [])]
    if unread:
        notes.append(f"{unread} folders couldn't be read")
    described = replace(
        bare,
        type_name="XFS",
        is_dirty=is_dirty,
        inode_bytes=xfs["inodesize"],
        root_inode=xfs["rootino"],
        block_bytes=xfs["blocksize"],
        notes=tuple(notes),
    )
    area.end(described, xfs["dblocks"] * xfs["blocksize"])


def _superblock(path: str) -> XfsSuperblock:
    text = _xfs_db(path, ["sb 0", "p"]).decode("ascii", "replace")
    fields = {name: int(value) for name, value in re.findall(r"^(\w+) = (\d+)$", text, re.M)}
    xfs = XfsSuperblock(fields)
    try:
        is_sane = xfs["blocksize"] > 0 and xfs["inodesize"] > 0 and xfs["agblocks"] > 0
        if not is_sane or xfs["rblocks"] or not 0 < xfs["agcount"] <= 1 << 24:
            raise UnsupportedLayout("XFS with a part for real time, or with a damaged superblock")
        for name in ("dblocks", "rootino", "sectsize", "inopblog", "agblklog"):
            xfs[name]
    except KeyError as error:
        raise UnsupportedLayout("an XFS superblock that xfs_db can't read") from error
    return xfs


def _claim_layout(path: str, xfs: XfsSuperblock, area: AreaMap) -> None:
    """Claim the headers of allocation groups, the log and free space."""
    header = area.owner(Owner(kind=OwnerKind.SUPERBLOCK))
    length = -(-_HEADER_SECTORS * xfs["sectsize"] // xfs["blocksize"]) * xfs["blocksize"]
    for group in range(xfs["agcount"]):
        area.claim(Tier.USED, xfs.byte_of(group, 0), length, header)
    if start := xfs.fields.get("logstart", 0):
        log = area.owner(Owner(kind=OwnerKind.JOURNAL))
        group, block = start >> xfs["agblklog"], start & ((1 << xfs["agblklog"]) - 1)
        length = xfs.fields.get("logblocks", 0) * xfs["blocksize"]
        area.claim(Tier.USED, xfs.byte_of(group, block), length, log)
    free = area.owner(Owner(kind=OwnerKind.FREE))
    text = _xfs_db(path, ["freesp -d"])
    for match in re.finditer(rb"^ *(\d+) +(\d+) +(\d+)\n", text, re.M):
        group, block, blocks = map(int, match.groups())
        start = xfs.byte_of(group, block)
        area.claim(Tier.FREE, start, blocks * xfs["blocksize"], free)


def _claim_files(path: str, xfs: XfsSuperblock, area: AreaMap) -> int:
    """Claim all files that a folder names. Return how many folders couldn't be read."""
    root = xfs["rootino"]
    kinds = {root: OwnerKind.DIRECTORY}
    rows = {root: ROOT}
    level, unread = [root], 0
    for _ in range(MAX_DEPTH):
        entries, damaged = _read_folders(path, level)
        unread += damaged
        level = []
        for entry in entries:
            row = area.builder.names.add(
                entry.name, area=area.place, inode=entry.inode, parent=rows[entry.folder]
            )
            if entry.inode in kinds:
                continue
            kinds[entry.inode] = _KINDS.get(entry.type_name, OwnerKind.FILE)
            if entry.type_name == b"directory":
                rows[entry.inode] = row
                level.append(entry.inode)
        if not level:
            break
    owners: dict[tuple[int, OwnerKind], int] = {}
    for run in _read_runs(path, sorted(kinds)):
        kind = OwnerKind.ATTRIBUTES if run.is_attribute else kinds[run.inode]
        owner = owners.get((run.inode, kind))
        if owner is None:
            new = Owner(kind=kind, first_inode=run.inode, last_inode=run.inode)
            owner = owners[run.inode, kind] = area.owner(new)
        start = xfs.byte_of(run.group, run.block)
        area.claim(Tier.USED, start, run.blocks * xfs["blocksize"], owner)
    _claim_inodes(xfs, area, kinds)
    return unread


def _claim_inodes(xfs: XfsSuperblock, area: AreaMap, inodes: Iterable[int]) -> None:
    """Claim the blocks that hold inodes in use."""
    for start, first in sorted({xfs.inode_block(inode) for inode in inodes}):
        last = first + (1 << xfs["inopblog"]) - 1
        owner = Owner(
            kind=OwnerKind.INODES, first_inode=first, last_inode=last, begin=area.start + start
        )
        area.claim(Tier.USED, start, xfs["blocksize"], area.owner(owner))


def _read_folders(path: str, folders: Sequence[int]) -> tuple[list[FolderEntry], int]:
    """Return the entries of folders, and how many of them couldn't be read to their end."""
    entries: list[FolderEntry] = []
    unread = 0
    for batch in _batches(folders):
        text = _xfs_db(path, [f"inode {inode}\ninode\nls" for inode in batch])
        part, damaged = parse_folders(text)
        entries += part
        unread += damaged
    return entries, unread


def parse_folders(text: bytes) -> tuple[list[FolderEntry], int]:
    """Return the entries that `inode` and `ls` print, and how many lines make no sense.

    The length of each name is printed before it: a name may look like lines of this output.
    """
    entries, unread, at, folder = [], 0, 0, -1
    while at < len(text):
        if match := _CURRENT.match(text, at):
            folder, at = int(match[1]), match.end()
            continue
        entry = _ENTRY.match(text, at)
        end = -1 if entry is None else entry.end() + int(entry[3])
        if entry is None or not text.startswith(b" (good)\n", end):
            unread += 1
            at = text.find(b"\n", at) + 1 or len(text)
            continue
        name = text[entry.end() : end]
        at = end + len(b" (good)\n")
        if name not in (b".", b"..") and folder >= 0:
            entries.append(FolderEntry(folder, int(entry[1]), entry[2], name))
    return entries, unread


def _read_runs(path: str, inodes: Sequence[int]) -> Iterator[FileRun]:
    """Yield the runs of blocks of files."""
    for batch in _batches(inodes):
        text = _xfs_db(path, [f"inode {inode}\ninode\nbmap -d\nbmap -a" for inode in batch])
        inode = -1
        for line in text.splitlines(keepends=True):
            if match := _CURRENT.fullmatch(line):
                inode = int(match[1])
            elif (match := _RUN.fullmatch(line)) and inode >= 0:
                group, block, blocks = (int(match[place]) for place in (2, 3, 4))
                yield FileRun(inode, group, block, blocks, match[1] == b"attr")


def _batches(inodes: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(inodes), _BATCH):
        yield inodes[first : first + _BATCH]


def _is_dirty(path: str) -> bool | None:
    """Return whether the log holds changes that aren't in place; None if that can't be told."""
    tool = shutil.which("xfs_logprint", path=_PATH)
    if tool is None:
        return None
    text = subprocess.run([tool, "-t", path], capture_output=True, check=False).stdout
    match = re.search(rb"state: <(\w+)>", text)
    return None if match is None else match[1] != b"CLEAN"


def _xfs_db(path: str, commands: Sequence[str]) -> bytes:
    """Return what xfs_db, which only reads here, prints on stdout. Raise UnsupportedLayout."""
    tool = shutil.which("xfs_db", path=_PATH) or "xfs_db"
    done = subprocess.run(
        [tool, "-r", path],
        input="\n".join([*commands, "quit\n"]).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason"]
        raise UnsupportedLayout(f"XFS, and xfs_db failed: {reason[0][:200]}")
    return done.stdout
