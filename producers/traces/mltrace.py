"""mirrorlog's own recordings (`*.mltrace`): gzip, whose CRC-32 is the checksum (RFC 1952), around lines of text.

# mirrorlog trace 1
time_us,volume,kind,offset,length        kind: write | zero | discard | flush; of a flush offset and length are 0
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
    Malformed,
    RequestKind,
    TracedRequest,
    TraceFormat,
    barrier,
    fields,
    number,
    shown,
    transfer,
)

_HEADER: Final = b"# mirrorlog trace 1"
_ANY_HEADER: Final = re.compile(rb"# mirrorlog trace \d+\r?\n")
_FIELDS: Final = ("time_us", "volume", "kind", "offset", "length")
_KINDS: Final = {kind.value.encode(): kind for kind in RequestKind if kind is not RequestKind.READ}


def _read(lines: Iterator[bytes], _volume: str) -> Iterator[TracedRequest]:
    header = next(lines, b"")
    if header != _HEADER:
        raise Malformed(f"the file begins with {shown(header)} and not with {shown(_HEADER)}")
    for line in lines:
        yield _decode(line)


def _decode(line: bytes) -> TracedRequest:
    time, volume, kind, offset, length = fields(line, _FIELDS)
    if kind not in _KINDS:
        raise Malformed(f"kind {shown(kind)} is none of write, zero, discard and flush")
    name = volume.decode("ascii", "replace")
    if not VOLUME_NAME.fullmatch(name):
        raise Malformed(f"{shown(volume)} isn't the name of a volume")
    time_us, start, count = number(time, "time"), number(offset, "offset"), number(length, "length")
    if _KINDS[kind] is RequestKind.FLUSH:
        if start or count:
            raise Malformed("a flush has an extent")
        return barrier(name, time_us)
    if not count:
        raise Malformed(f"a {_KINDS[kind]} of no bytes")
    return next(transfer(name, _KINDS[kind], start, count, time_us))


def write_trace(path: Path, requests: Iterable[TracedRequest]) -> None:
    """Write a recording. The same requests give the same bytes, with the same zlib.

    BadUse for a request that the format can't hold. The file takes its name when it is complete, so a failure leaves
    what was there before.
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
    """The request's line, which reads back as the same request."""
    row = (request.time_us, request.volume, request.kind, request.offset, request.length)
    line = ",".join(map(str, row)).encode("ascii", "replace")
    try:
        _decode(line)
    except Malformed as reason:
        raise BadUse(f"writing {request} to a trace: {reason}") from reason
    return line


FORMAT: Final = TraceFormat(
    "mirrorlog", lambda head: _ANY_HEADER.match(head) is not None, _read, sealed=True
)
