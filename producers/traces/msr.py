"""MSR Cambridge CSV (Write Off-Loading, FAST'08): one request in a line, no header.

The fields are FILETIME (units of 100 ns since 1601), host, disk number, Read|Write, offset (bytes),
size (bytes) and response time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mirrorlog.producers.traces.request import (
    VOLUME_NAME,
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

_FIELDS: Final = ("time", "host", "disk", "type", "offset", "size", "response time")
_LINE: Final = re.compile(rb"\d+,[^,]*,\d+,(?:Read|Write),\d+,\d+,\d+")
_KINDS: Final = {b"Read": RequestKind.READ, b"Write": RequestKind.WRITE}


def _read(lines: Iterator[bytes], _volume: str) -> Iterator[TracedRequest]:
    for line in lines:
        time, host, disk, kind, offset, size, response = split_fields(line, _FIELDS)
        parse_number(response, "response time")
        if kind not in _KINDS:
            raise MalformedRecord(f"type {quoted(kind)} is neither Read nor Write")
        # A host's name is never changed, only refused: two hosts must not become one volume.
        volume = f"{host.decode('ascii', 'replace')}-{parse_number(disk, 'disk')}"
        if not VOLUME_NAME.fullmatch(volume):
            raise MalformedRecord(
                f"host {quoted(host)} has other characters than letters, digits, '.', '_' and '-'"
            )
        time_us = parse_number(time, "time") // 10
        yield from transfer(
            volume,
            _KINDS[kind],
            offset=parse_number(offset, "offset"),
            length=parse_number(size, "size"),
            time_us=time_us,
        )


FORMAT: Final = TraceFormat("msr", matches_any_line(_LINE), _read)
