"""Tencent cloud block storage CSV (OSCA, ATC'20): one request in a line, no header.

The fields are Unix time (s), offset (sectors of 512 bytes), size (sectors), type (0 read, 1 write)
and volume id. Many requests share a second, and time goes back: only the order in the file counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mirrorlog.producers.traces.request import (
    SECTOR_BYTES,
    MalformedRecord,
    RequestKind,
    TracedRequest,
    TraceFormat,
    matches_any_line,
    parse_number,
    quoted,
    split_fields,
    transfer,
)

_FIELDS: Final = ("time", "offset", "size", "type", "volume")
_LINE: Final = re.compile(rb"\d+,\d+,\d+,[01],\d+")
_KINDS: Final = {b"0": RequestKind.READ, b"1": RequestKind.WRITE}


def _read(lines: Iterator[bytes], _volume: str) -> Iterator[TracedRequest]:
    for line in lines:
        time, offset, size, kind, volume = split_fields(line, _FIELDS)
        if kind not in _KINDS:
            raise MalformedRecord(f"type {quoted(kind)} is neither 0 (read) nor 1 (write)")
        yield from transfer(
            f"vol{parse_number(volume, 'volume')}",
            _KINDS[kind],
            offset=parse_number(offset, "offset") * SECTOR_BYTES,
            length=parse_number(size, "size") * SECTOR_BYTES,
            time_us=parse_number(time, "time") * 1_000_000,
        )


FORMAT: Final = TraceFormat("tencent", matches_any_line(_LINE), _read)
