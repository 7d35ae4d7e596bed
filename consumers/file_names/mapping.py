"""What is said of an index: which copy was read, when, and what a reader of names has to know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mirrorlog.changed.points import format_time
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.domain.volumes import Volume
from mirrorlog.units import format_size


def mapping_title(address: str, index: FileIndex) -> str:
    """Return a line that says when the names were true. address: of the device that was read."""
    return (
        f"names are those on {address} at {format_time(index.read_at_us)}, not those at the time "
        "of the writes: blocks of files that were deleted or moved since are free now, or another "
        "file's"
    )


def mapping_notes(index: FileIndex, volume: Volume, *, by_blocks: bool) -> Iterator[str]:
    """Yield what a reader of names has to know of an index, for a volume.

    by_blocks: the names are those of blocks of the log, and not of bytes.
    """
    for area in index.areas:
        place = f"partition {area.number}: " if area.number else ""
        for note in area.notes:
            yield place + note
        misplaced = area.start % volume.block_size
        is_finer = area.block_bytes > 0 and (area.block_bytes % volume.block_size or misplaced)
        if by_blocks and is_finer:
            yield (
                f"{place}the log counts in blocks of {format_size(volume.block_size)}, the file "
                f"system in {format_size(area.block_bytes)}: a file is named if it shares one of "
                "the log's blocks with what changed"
            )
    if index.size_bytes < volume.size_bytes:
        yield (
            f"the device that was read has {index.size_bytes} bytes, the volume "
            f"{volume.size_bytes}: nothing is known of what lies after its end"
        )


def mapping_as_json(
    address: str, index: FileIndex, volume: Volume, *, by_blocks: bool
) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "read_from": address,
        "read_began_at": format_time(index.began_at_us),
        "read_at": format_time(index.read_at_us),
        "file_systems": [
            {
                "partition": area.number,
                "start": area.start,
                "length": area.length,
                "type": area.type_name,
                "is_dirty": area.is_dirty,
                "notes": list(area.notes),
            }
            for area in index.areas
        ],
        "notes": list(mapping_notes(index, volume, by_blocks=by_blocks)),
    }
