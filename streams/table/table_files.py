"""The node's table as it lies on its disk, read without the node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from rocksdict import AccessType, Options, Rdict

from mirrorlog.codec.events import decode
from mirrorlog.errors import BadUse
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import key_kind, watermark_key
from mirrorlog.tracking_log.records import LogRecord

_OFFSET_KEY: Final = b"__faust\0offset__"
"""Faust's own row: the table's position in the changelog."""


def table_partitions(node_folder: Path) -> dict[int, Path]:
    """Return the table's RocksDB folders under a node's folder, by partition."""
    folders = {}
    for path in node_folder.glob("**/tables/log-*.db"):
        if match := re.fullmatch(r"log-(\d+)\.db", path.name):
            folders[int(match.group(1))] = path
    return folders


def table_records(folder: Path) -> Iterator[LogRecord]:
    """Yield every log record in one partition's RocksDB folder, a part of a record as a record.

    A running node isn't disturbed. What it gathers in memory is missing (node_table_file_s). Raise
    BadUse if the folder isn't a table. Raise BadInput for a record that fails its checksum.
    """
    with closing(_open(folder)) as table:
        for key, value in table.items():
            assert isinstance(key, bytes)  # raw mode
            if key != _OFFSET_KEY and key_kind(key) is LogRecord:
                yield decode(value, LogRecord)


def table_watermark(folder: Path, partition: int) -> Watermark | None:
    """Return the watermark in the partition's table; None if it has none. BadUse as above."""
    with closing(_open(folder)) as table:
        value = table.get(watermark_key(partition))
        return None if value is None else decode(value, Watermark)


def _open(folder: Path) -> Rdict:
    try:
        return Rdict(
            str(folder), options=Options(raw_mode=True), access_type=AccessType.read_only()
        )
    except Exception as error:
        raise BadUse(f"the table can't be read: {error}", where=str(folder)) from error
