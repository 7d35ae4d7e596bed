"""Finds files and folders in the file systems of a device, and yields them as records.

Only what is allocated counts. What the file system keeps for itself is passed over, unless it was
asked for by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mirrorlog.consumers.backup.files.exfat_lengths import written_lengths
from mirrorlog.consumers.backup.files.file_content import (
    FileParts,
    NotWhole,
    content_of,
    file_parts,
)
from mirrorlog.consumers.backup.files.records import (
    BeginFile,
    EndFile,
    EnterFolder,
    FileData,
    FileFacts,
    Finished,
    FoundLink,
    LeaveFolder,
    Note,
    Problem,
    Record,
)
from mirrorlog.consumers.backup.qcow2.checked_file import DamagedPiece
from mirrorlog.consumers.file_names.ext_layout import ENCRYPTED, allocated_inodes, read_groups
from mirrorlog.consumers.file_names.image_reading import CachedDevice
from mirrorlog.consumers.file_names.layout_reading import UnsupportedLayout
from mirrorlog.consumers.file_names.name_table import shown_name
from mirrorlog.consumers.file_names.ntfs_reader import METADATA_INODES
from mirrorlog.consumers.file_names.tsk_reader import OpenedArea, open_areas
from mirrorlog.consumers.file_names.tsk_walk import ALLOCATED, READ_FAILED

MAX_DEPTH: Final = 256
_MAX_TARGET_BYTES: Final = 65_536
_FILE, _FOLDER, _LINK = 1, 2, 6
_MADE_UP: Final = frozenset({10, 11})
_KINDS: Final = {3: "a FIFO", 4: "a character device", 5: "a block device", 8: "a socket"}
"""Types of inodes (TSK_FS_META_TYPE_ENUM)."""
_KEEPS_MODES: Final = frozenset({"ext2", "ext3", "ext4", "HFS+"})
_KEEPS_CASE_ONLY: Final = frozenset({"NTFS", "FAT12", "FAT16", "FAT32", "exFAT", "HFS+"})
_EXFAT_METADATA: Final = frozenset({b"$ALLOC_BITMAP", b"$UPCASE_TABLE"})
_FAT_LABEL: Final = b" (Volume Label Entry)"
_HFS_PRIVATE: Final = (b"HFS+ Private Data", b".HFS+ Private Directory Data\r")
_FIRST_HFS_FILE: Final = 16
_INCOMPAT_ENCRYPT: Final = 0x10000


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that was asked for. above: the folders above it, from the root on, with their names.

    name: empty for a root folder.
    """

    area: OpenedArea
    above: tuple[tuple[bytes, Any], ...]
    name: bytes
    file: Any


def tree_records(
    device: CachedDevice, wanted: Sequence[bytes], partition: int | None = None
) -> Iterator[Record]:
    """Yield what was asked for, with all that is in it, and Finished at the end.

    wanted: absolute paths. partition: its number, where several have a file of that path. Raise
    DeviceFailed if the device can't be read.
    """
    areas = [area for area in open_areas(device) if partition in (None, area.number)]
    readable = [area for area in areas if area.fs is not None]
    for area in areas:
        if area.fs is None:
            yield Note(f"{_place(area)} can't be read here: {area.what}")
    if not readable:
        for path in wanted:
            yield Problem(path, "there is no file system here that can be read")
    else:
        for path in _outermost(wanted):
            yield from _records_of_path(path, readable, device)
            damage_met(device)
    yield Finished()


def _records_of_path(
    path: bytes, areas: Sequence[OpenedArea], device: CachedDevice
) -> Iterator[Record]:
    names = [name for name in path.split(b"/") if name]
    matches, reasons = [], []
    for area in areas:
        answer = _find(area, names)
        if isinstance(answer, str):
            reasons.append(answer if len(areas) == 1 else f"{_place(area)}: {answer}")
        else:
            matches.append(answer)
    if len(matches) > 1:
        numbers = ", ".join(str(one.area.number) for one in matches)
        yield Problem(path, f"several partitions have it ({numbers}): name one (--partition)")
    elif not matches:
        yield Problem(path, "; ".join(reasons))
    else:
        yield from _Walk(matches[0], device).records()


def damage_met(device: CachedDevice) -> str | None:
    """Return what damage of the images was met since the last call; None if there was none.

    Raise DeviceFailed for any other failure of the device.
    """
    failure, device.failure = device.failure, None
    if failure is None:
        return None
    if not isinstance(failure, DamagedPiece):
        raise failure
    return f"{failure.what} ({failure.where})"


def _find(area: OpenedArea, names: Sequence[bytes]) -> _Found | str:
    """Return what has the path, or why nothing has."""
    assert area.fs is not None
    ignores_case = area.type_name in _KEEPS_CASE_ONLY
    try:
        current = area.fs.open_meta(int(area.fs.info.root_inum))
        above: list[tuple[bytes, Any]] = []
        for number, name in enumerate(names):
            entry = _entry(area.fs, current, name, ignores_case=ignores_case)
            if entry is None:
                return "there is no such file"
            is_last = number == len(names) - 1
            if is_last:
                return _Found(area, tuple(above), bytes(entry.info.name.name), entry)
            kind = int(entry.info.meta.type)
            if kind != _FOLDER:
                what = "a symbolic link, which isn't followed" if kind == _LINK else "no folder"
                return f"{shown_name(b'/' + b'/'.join(names[: number + 1]))} is {what}"
            above.append((bytes(entry.info.name.name), entry))
            current = entry
    except READ_FAILED as error:
        return f"a folder on the way can't be read: {error}"
    return _Found(area, (), b"", current)


def _entry(fs: Any, folder: Any, name: bytes, *, ignores_case: bool) -> Any | None:
    """Return the entry of a name in a folder. An exact name goes before one of another case."""
    similar = None
    for entry in fs.open_dir(inode=int(folder.info.meta.addr)):
        if not _is_in_use(entry):
            continue
        if bytes(entry.info.name.name) == name:
            return entry
        if ignores_case and _folded(entry.info.name.name) == _folded(name):
            similar = entry
    return similar


def _is_in_use(entry: Any) -> bool:
    name, meta = entry.info.name, entry.info.meta
    return bool(int(name.flags) & ALLOCATED and meta is not None and int(meta.flags) & ALLOCATED)


@dataclass(slots=True)
class _Walk:
    """One walk from what was asked for down. walked: the inodes of the folders met so far."""

    origin: _Found
    device: CachedDevice
    walked: set[int] = field(default_factory=set)
    _encrypted: frozenset[int] = frozenset()

    def records(self) -> Iterator[Record]:
        """Yield what was origin, in the folders above it."""
        origin, area = self.origin, self.origin.area
        assert area.fs is not None
        if area.superblock is not None and not area.superblock.is_clean:
            yield Note(_DIRTY.format(_place(area)))
        path = b"/".join([b"", *(name for name, _ in origin.above)]) if origin.above else b""
        try:
            self._encrypted = _encrypted_inodes(self.device, area)
            above = (
                origin.above[-1][1] if origin.above else area.fs.open_meta(area.fs.info.root_inum)
            )
            written = self._written_lengths(above)
        except (*READ_FAILED, UnsupportedLayout) as error:
            yield Problem(path + b"/" + origin.name, f"its file system can't be read: {error}")
            return
        for name, folder in origin.above:
            yield EnterFolder(name, self._facts(folder), is_wanted=False)
        if origin.name:
            yield from self._of_entry(origin.file, path, written, depth=len(origin.above))
        else:
            yield from self._inside(origin.file, path, depth=0)
        for _ in origin.above:
            yield LeaveFolder()

    def _of_entry(
        self, entry: Any, folder: bytes, written: Mapping[bytes, int] | None, *, depth: int
    ) -> Iterator[Record]:
        """Yield one file with all that is in it.

        folder: the path of the one that names it. written: of its files, as written_lengths.
        """
        name, meta = bytes(entry.info.name.name), entry.info.meta
        path = folder + b"/" + name
        kind, inode = int(meta.type), int(meta.addr)
        if inode in self._encrypted:
            yield Problem(path, "it is encrypted")
        elif kind == _FOLDER:
            if depth >= MAX_DEPTH:
                yield Problem(path, f"it is more than {MAX_DEPTH} folders deep")
            elif inode in self.walked:
                yield Problem(path, "the folder has two names: it was restored by the other one")
            else:
                yield EnterFolder(name, self._facts(entry), is_wanted=True)
                yield from self._inside(entry, path, depth=depth + 1)
                yield LeaveFolder()
        elif kind == _LINK:
            yield self._of_link(entry, name, path)
        elif kind == _FILE:
            yield from self._of_file(entry, name, path, written)
        else:
            yield Problem(path, f"it is {_KINDS.get(kind, 'of an unknown kind')}")

    def _inside(self, folder: Any, path: bytes, *, depth: int) -> Iterator[Record]:
        """Yield what a folder holds."""
        assert self.origin.area.fs is not None
        inode = int(folder.info.meta.addr)
        self.walked.add(inode)
        try:
            written = self._written_lengths(folder)
            for entry in self.origin.area.fs.open_dir(inode=inode):
                name = bytes(entry.info.name.name)
                if name in (b".", b"..") or not int(entry.info.name.flags) & ALLOCATED:
                    continue
                if entry.info.meta is None or not int(entry.info.meta.flags) & ALLOCATED:
                    yield Problem(path + b"/" + name, "its inode isn't in use, or can't be read")
                elif not self._is_internal(entry, is_in_root=depth == 0):
                    yield from self._of_entry(entry, path, written, depth=depth)
        except READ_FAILED as error:
            reason = damage_met(self.device) or str(error)
            yield Problem(path or b"/", f"the folder can't be read: {reason}")

    def _of_file(
        self, entry: Any, name: bytes, path: bytes, written: Mapping[bytes, int] | None
    ) -> Iterator[Record]:
        problem = None
        yield BeginFile(name, self._facts(entry), int(entry.info.meta.size))
        streams: tuple[str, ...] = ()
        try:
            parts = file_parts(entry)
            streams = parts.streams
            if written is not None:
                if name not in written:
                    raise NotWhole("nothing says how much of it was written")
                parts = replace(parts, written_bytes=written[name])
            yield from self._content(entry, parts)
        except NotWhole as error:
            problem = str(error)
        yield EndFile(damage_met(self.device) or problem)
        for stream in streams:
            yield Problem(path, f"its stream isn't restored: {stream}")

    def _of_link(self, entry: Any, name: bytes, path: bytes) -> Record:
        """Return a symbolic link. Long targets of ext4 are content, as of a file."""
        target, size_bytes = entry.info.meta.link, int(entry.info.meta.size)
        if target is None and 0 < size_bytes <= _MAX_TARGET_BYTES:
            try:
                pieces = self._content(entry, file_parts(entry))
                target = b"".join(piece.data for piece in pieces)
            except NotWhole:
                target = None
        if target is None:
            return Problem(path, "a symbolic link whose target can't be read")
        return FoundLink(name, bytes(target), self._facts(entry))

    def _content(self, entry: Any, parts: FileParts) -> Iterator[FileData]:
        area = self.origin.area
        assert area.fs is not None
        block_bytes = int(area.fs.info.block_size)
        return content_of(entry, parts, block_bytes, fillers_are_holes=area.superblock is not None)

    def _written_lengths(self, folder: Any) -> Mapping[bytes, int] | None:
        """Return how much of each file in a folder was written; None if all of them whole."""
        if self.origin.area.type_name != "exFAT":
            return None
        size_bytes = int(folder.info.meta.size)
        return written_lengths(bytes(folder.read_random(0, size_bytes)) if size_bytes else b"")

    def _is_internal(self, entry: Any, *, is_in_root: bool) -> bool:
        """Return whether a file is what the file system keeps for itself."""
        meta, type_name = entry.info.meta, self.origin.area.type_name
        name = bytes(entry.info.name.name)
        if int(meta.type) in _MADE_UP:
            return True
        if type_name == "NTFS":
            return int(meta.addr) in METADATA_INODES
        if not is_in_root:
            return False
        if type_name == "HFS+":
            return int(meta.addr) < _FIRST_HFS_FILE or name.endswith(_HFS_PRIVATE)
        is_fat = type_name not in _KEEPS_MODES
        return is_fat and (name.endswith(_FAT_LABEL) or name in _EXFAT_METADATA)

    def _facts(self, file: Any) -> FileFacts:
        meta, type_name = file.info.meta, self.origin.area.type_name
        times = {
            "mtime_ns": _time_ns(meta.mtime, meta.mtime_nano),
            "atime_ns": _time_ns(meta.atime, meta.atime_nano),
        }
        if type_name not in _KEEPS_MODES:
            return FileFacts(**times)
        return FileFacts(
            mode=int(meta.mode) & 0o7777, uid=int(meta.uid), gid=int(meta.gid), **times
        )


_DIRTY: Final = (
    "{} wasn't unmounted in order before the point: what its journal holds isn't in the files, and "
    "a file that was being written may be torn. `mirrorlog backup mount` replays the journal"
)


def _encrypted_inodes(device: CachedDevice, area: OpenedArea) -> frozenset[int]:
    """Return the inodes of ext4 whose content is encrypted."""
    superblock = area.superblock
    if superblock is None or not superblock.incompat & _INCOMPAT_ENCRYPT:
        return frozenset()

    def read(offset: int, length: int) -> bytes:
        return device.read(area.start + offset, length)

    groups = read_groups(superblock, read)
    return frozenset(
        int(inode)
        for group in allocated_inodes(superblock, groups, read)
        for inode in group.inodes[(group.flags & ENCRYPTED) != 0]
    )


def _outermost(wanted: Sequence[bytes]) -> list[bytes]:
    """Return the paths of which none is below another one, or the same, in their order."""
    split = {path: tuple(filter(None, path.split(b"/"))) for path in wanted}
    whole = set(split.values())
    taken: dict[tuple[bytes, ...], bytes] = {}
    for path, names in split.items():
        if not any(names[:length] in whole for length in range(len(names))):
            taken.setdefault(names, path)
    return list(taken.values())


def _time_ns(seconds: Any, nanoseconds: Any) -> int | None:
    """Return a time in nanoseconds since 1970; None if the file system keeps none: 0."""
    return int(seconds) * 1_000_000_000 + int(nanoseconds) if int(seconds) else None


def _place(area: OpenedArea) -> str:
    kind = area.type_name or "a file system"
    return f"partition {area.number} ({kind})" if area.number else f"the volume ({kind})"


def _folded(name: bytes) -> str:
    return bytes(name).decode("utf-8", "surrogateescape").casefold()
