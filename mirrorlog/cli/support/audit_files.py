"""The files of an audit: read before its rows, because a path becomes a filter of bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.audit_rows import ChangesText
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.file_names import NameSource, read_index
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.consumers.audit.question import AskedBytes
from mirrorlog.consumers.audit.text_rows import TEXTS
from mirrorlog.consumers.file_names.extent_files import ExtentFiles, TextWithFiles
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.mapping import mapping_as_json, mapping_notes, mapping_title
from mirrorlog.consumers.file_names.name_table import shown_name
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.units import format_size


@dataclass(frozen=True, slots=True)
class NamedBytes:
    """The index of an audit, and the bytes that a path stands for; None without a path."""

    index: FileIndex
    byte_ranges: tuple[AskedBytes, ...] | None

    def with_files(self, output_format: str) -> ChangesText:
        """Return what adds the files to the rows of a text format."""
        files = ExtentFiles(self.index)
        return lambda text: TextWithFiles(output_format, text, files)


def check_text_format(name: str) -> None:
    """Raise BadUse for a format of rows that has no column of files."""
    if name not in TEXTS:
        raise BadUse(
            f"rows in {name} have no column of files",
            next=f"Use --format {', '.join(TEXTS)}; or leave --files out.",
        )


def read_names(call: Invocation, name: str, source: NameSource, path: str | None) -> NamedBytes:
    """Read the names of a volume's files, and say how far they can be trusted.

    Raise BadUse if no file has the path; what find_volume() and read_index() raise.
    """
    volume = find_volume(call.settings, name)
    address, index = read_index(call.settings, volume, source)
    for note in (mapping_title(address, index), *mapping_notes(index, volume, by_blocks=False)):
        call.output.print_note(note)
    call.output.print_message("mapping", mapping_as_json(address, index, volume, by_blocks=False))
    if path is None:
        return NamedBytes(index, None)
    return NamedBytes(index, _bytes_of(call, volume, address, index, os.fsencode(path)))


def _bytes_of(
    call: Invocation, volume: Volume, address: str, index: FileIndex, path: bytes
) -> tuple[AskedBytes, ...]:
    """Return the bytes of a file, and say what they are."""
    shown = shown_name(path)
    if not index.inodes_of(path):
        raise BadUse(
            f"there is no file {shown} in the volume",
            where=f"volume {volume.volume}, as {address} was at {format_time(index.read_at_us)}",
            next="Write the whole path from the root folder of its file system. A file that was "
            "deleted has no blocks any more: name an older copy with --primary.",
        )
    what = "blocks"
    starts, lengths = index.extents_of(path)
    if not len(starts):
        what = "inode, which the whole file lies in,"
        starts, lengths = index.inode_entries_of(path)
    ranges = _within(zip(starts.tolist(), lengths.tolist(), strict=True), volume.size_bytes)
    size = format_size(sum(part.length for part in ranges))
    call.output.print_note(
        f"rows are those that touch the {what} of {shown} at {format_time(index.read_at_us)}: "
        f"{size} in {len(ranges)} ranges. Blocks that belonged to it before, and don't now, aren't "
        f"seen: a program that replaces a file by renaming a new one over it writes other blocks"
    )
    return ranges


def _within(ranges: Iterable[tuple[int, int]], size_bytes: int) -> tuple[AskedBytes, ...]:
    """Return the ranges as far as they lie in the volume."""
    return tuple(
        AskedBytes(offset=start, length=min(length, size_bytes - start))
        for start, length in ranges
        if start < size_bytes
    )
