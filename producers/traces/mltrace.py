"""mirrorlog's own recordings (`*.mltrace`): lines of text, compressed with gzip.

gzip's CRC-32 is the checksum (RFC 1952). The text is:

    # mirrorlog trace 1
    time_us,volume,kind,offset,length

kind is write, zero, discard or flush. The offset and the length of a flush are 0.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.producers.traces.request import (
    VOLUME_NAME,
    MalformedRecord,
    RequestKind,
    TracedRequest,
    TraceFormat,
    flush_request,
    parse_number,
    quoted,
    split_fields,
    transfer,
)

_HEADER: Final = b"# mirrorlog trace 1"
_ANY_HEADER: Final = re.compile(rb"# mirrorlog trace \d+\r?\n")
_FIELDS: Final = ("time_us", "volume", "kind", "offset", "length")
_KINDS: Final = {kind.value.encode(): kind for kind in RequestKind if kind is not RequestKind.READ}


def _read(lines: Iterator[bytes], _volume: str) -> Iterator[TracedRequest]:
    header = next(lines, b"")
    if header != _HEADER:
        raise MalformedRecord(f"the file begins with {quoted(header)}, not with {quoted(_HEADER)}")
    for line in lines:
        yield _decode(line)


def _decode(line: bytes) -> TracedRequest:
    time, volume, kind, offset, length = split_fields(line, _FIELDS)
    if kind not in _KINDS:
        raise MalformedRecord(f"kind {quoted(kind)} is none of write, zero, discard and flush")
    name = volume.decode("ascii", "replace")
    if not VOLUME_NAME.fullmatch(name):
        raise MalformedRecord(f"{quoted(volume)} isn't the name of a volume")
    time_us, start, count = (
        parse_number(time, "time"),
        parse_number(offset, "offset"),
        parse_number(length, "length"),
    )
    if _KINDS[kind] is RequestKind.FLUSH:
        if start or count:
            raise MalformedRecord("a flush has an extent")
        return flush_request(name, time_us)
    if not count:
        raise MalformedRecord(f"a {_KINDS[kind]} of no bytes")
    return next(transfer(name, _KINDS[kind], offset=start, length=count, time_us=time_us))


def write_trace(path: Path, requests: Iterable[TracedRequest]) -> None:
    """Write a recording to `path`. With one version of zlib, equal requests give equal bytes.

    Raise BadUse for a request that the format can't hold. The file is renamed to `path` when it is
    complete, so a failure leaves an older file unchanged.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
            stream.write(_HEADER + b"\n")
            for request in requests:
                stream.write(_encode(request) + b"\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encode(request: TracedRequest) -> bytes:
    """Return the line of the request. Raise BadUse unless it reads back as the same request."""
    row = (request.time_us, request.volume, request.kind, request.offset, request.length)
    line = ",".join(map(str, row)).encode("ascii", "replace")
    try:
        _decode(line)
    except MalformedRecord as error:
        raise BadUse(f"writing {request} to a trace: {error}") from error
    return line


FORMAT: Final = TraceFormat(
    "mirrorlog", lambda head: _ANY_HEADER.match(head) is not None, _read, compressed=True
)
