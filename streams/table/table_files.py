"""The node's table as it lies on its disk, read without the node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rocksdict import AccessType, Options, Rdict

from mirrorlog.codec.events import decode
from mirrorlog.errors import BadUse
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord

_OFFSET_KEY = b"__faust\0offset__"


def table_partitions(node_folder: Path) -> dict[int, Path]:
    """The RocksDB folders of the table under a node's folder, by partition."""
    found = {}
    for path in node_folder.glob("**/tables/log-*.db"):
        if match := re.fullmatch(r"log-(\d+)\.db", path.name):
            found[int(match.group(1))] = path
    return found


def table_records(path: Path) -> Iterator[LogRecord]:
    """Every log record in one partition's folder; a node that runs isn't disturbed, its last second may be missing.

    BadUse where it isn't a table; BadInput for a record that fails its checksum.
    """
    try:
        table = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
    except Exception as error:
        raise BadUse(f"the table can't be read: {error}", where=str(path)) from error
    try:
        for key, value in table.items():
            assert isinstance(key, bytes)  # raw mode
            if key != _OFFSET_KEY and key_kind(key) is LogRecord:
                yield decode(value, LogRecord)
    finally:
        table.close()
