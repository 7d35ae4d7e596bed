"""An index as bytes, between the process that reads a file system and the one that asks for it.

A line of JSON, and then the columns as little-endian integers of 8 bytes, and the names. Both
processes are of one version. The reader trusts nothing: the writer may have been misled by an image
that somebody made for this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.name_table import NameTable
from mirrorlog.consumers.file_names.owners import Area, OwnerTable
from mirrorlog.json_text import parse_json

Int64s = npt.NDArray[np.int64]

_NUMBER_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 64 << 20


def pack_index(index: FileIndex) -> bytes:
    """Return the bytes of an index."""
    groups = np.array([len(group) for group in index.groups], np.int64)
    members = np.array([owner for group in index.groups for owner in group], np.int64)
    names = index.names
    columns = (
        index.edges,
        index.owner_numbers,
        *index.all_owners.columns(),
        groups,
        members,
        names.areas,
        names.inodes,
        names.parents,
        names.ends,
    )
    header = {
        "lengths": [len(column) for column in columns],
        "texts": index.all_owners.texts,
        "areas": [asdict(area) for area in index.areas],
        "began_at_us": index.began_at_us,
        "read_at_us": index.read_at_us,
    }
    parts = [json.dumps(header).encode() + b"\n"]
    parts += [column.astype("<i8").tobytes() for column in columns]
    return b"".join([*parts, names.text])


def unpack_index(data: bytes) -> FileIndex:
    """Return the index that was packed. Raise ValueError if the bytes aren't those of one."""
    end = data.find(b"\n", 0, _MAX_HEADER_BYTES)
    try:
        header: dict[str, Any] = parse_json(data[: max(end, 0)])
        lengths = [int(length) for length in header["lengths"]]
        areas = tuple(map(_area, header["areas"]))
        texts = tuple(map(str, header["texts"]))
        began_at_us, read_at_us = int(header["began_at_us"]), int(header["read_at_us"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the header of an index is damaged: {error}") from error
    if end < 0 or len(lengths) != 14 or min(lengths) < 0:
        raise ValueError("the header of an index is damaged")
    if sum(lengths) * _NUMBER_BYTES > len(data) - end - 1:
        raise ValueError("an index is cut short")
    columns, at = [], end + 1
    for length in lengths:
        columns.append(np.frombuffer(data, "<i8", length, at).astype(np.int64))
        at += length * _NUMBER_BYTES
    edges, numbers, *rest = columns
    groups = _groups(rest[6], rest[7])
    return FileIndex(
        edges=edges,
        owner_numbers=numbers,
        all_owners=OwnerTable(texts, *rest[:6]),
        groups=groups,
        areas=areas,
        names=NameTable(data[at:], *rest[8:]),
        began_at_us=began_at_us,
        read_at_us=read_at_us,
    )


def _area(fields: Mapping[str, Any]) -> Area:
    """Return an area, each value of the type that it must have."""
    type_name, is_dirty = fields["type_name"], fields["is_dirty"]
    return Area(
        number=int(fields["number"]),
        start=int(fields["start"]),
        length=int(fields["length"]),
        type_name=None if type_name is None else str(type_name),
        is_dirty=None if is_dirty is None else bool(is_dirty),
        inode_bytes=int(fields["inode_bytes"]),
        root_inode=int(fields["root_inode"]),
        block_bytes=int(fields["block_bytes"]),
        notes=tuple(map(str, fields["notes"])),
    )


def _groups(counts: Int64s, members: Int64s) -> tuple[tuple[int, ...], ...]:
    """Return the groups of owners. Raise ValueError if the columns contradict each other."""
    if bool(np.any(counts < 0)) or int(counts.sum()) != len(members):
        raise ValueError("the groups of an index contradict each other")
    ends = np.cumsum(counts)
    return tuple(
        tuple(members[end - count : end].tolist()) for count, end in zip(counts, ends, strict=True)
    )
