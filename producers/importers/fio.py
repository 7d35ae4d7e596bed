"""fio's I/O logs (HOWTO, "Trace file format v2" and "v3"; iolog.c): what fio's `write_iolog` writes.

fio version 3 iolog
162 /dev/vdb write 249856 4096          microseconds since fio began, file, action, offset, length; version 2 has no time
201 /dev/vdb sync 1970176 0             also datasync and others: no bytes change
30 /dev/vdb add                         also open, close
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mirrorlog.producers.importers.change import ImportSource
from mirrorlog.producers.importers.reading import SourceReader
from mirrorlog.producers.importers.recordings import source_of_requests
from mirrorlog.producers.traces import RequestKind, TracedRequest
from mirrorlog.producers.traces.request import MalformedRecord, parse_number, quoted, transfer

_VERSIONS: Final = {b"fio version 2 iolog": 2, b"fio version 3 iolog": 3}
_CHANGING: Final = {b"write": RequestKind.WRITE, b"trim": RequestKind.DISCARD}
_CHANGELESS: Final = frozenset(
    {b"read", b"wait", b"sync", b"datasync", b"syncfs", b"sync_file_range"}
)
_OF_FILES: Final = frozenset({b"add", b"open", b"close"})


def fio_source(
    path: Path, *, device: str | None = None, discard_zeroes: bool = False
) -> ImportSource:
    """device: one of the log's files. fio logs what it begins; whether it succeeded isn't in the log."""
    warnings: list[str] = []

    def requests() -> Iterator[TracedRequest]:
        reader = SourceReader(path, "fio", warnings)
        with reader.opened() as stream:
            yield from _read(reader.lines(stream))

    return source_of_requests("fio", requests, warnings, device, discard_zeroes, None)


def _read(lines: Iterator[bytes]) -> Iterator[TracedRequest]:
    header = next(lines, b"")
    version = _VERSIONS.get(header)
    if version is None:
        raise MalformedRecord(
            f"the file begins with {quoted(header)} and not with 'fio version 3 iolog' or 2"
        )
    for line in lines:
        fields = line.split()
        time_us = parse_number(fields.pop(0), "timestamp") if version == 3 else 0
        if len(fields) == 2 and fields[1] in _OF_FILES:
            continue
        if len(fields) != 4 or fields[1] not in _CHANGING.keys() | _CHANGELESS:
            raise MalformedRecord(f"{quoted(line)} is no action of fio")
        name, action, offset, length = fields
        if action in _CHANGING:
            file = name.decode("utf-8", "backslashreplace")
            yield from transfer(
                file,
                _CHANGING[action],
                parse_number(offset, "offset"),
                parse_number(length, "length"),
                time_us,
            )
