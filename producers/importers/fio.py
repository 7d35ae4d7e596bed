"""Reads the I/O logs that fio's `write_iolog` writes.

fio's HOWTO, "Trace file format v2" and "v3", and iolog.c describe them.

    fio version 3 iolog
    162 /dev/vdb write 249856 4096      microseconds since fio's start, file, action, offset, length
    201 /dev/vdb sync 1970176 0         datasync and others too: they change no bytes
    30 /dev/vdb add                     open and close too

Version 2 has no times.
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
_CHANGES: Final = {b"write": RequestKind.WRITE, b"trim": RequestKind.DISCARD}
_WITHOUT_CHANGE: Final = frozenset(
    {b"read", b"wait", b"sync", b"datasync", b"syncfs", b"sync_file_range"}
)
_FILE_ACTIONS: Final = frozenset({b"add", b"open", b"close"})


def fio_source(
    path: Path, *, device: str | None = None, discard_zeroes: bool = False
) -> ImportSource:
    """Read an I/O log of fio. See source_of_requests() for the options.

    device: one of the log's files. fio logs requests when it issues them; the log doesn't say
    whether they succeeded.
    """
    warnings: list[str] = []

    def requests() -> Iterator[TracedRequest]:
        reader = SourceReader(path, "fio", warnings)
        with reader.opened() as stream:
            yield from _read(reader.lines(stream))

    return source_of_requests(
        "fio",
        requests,
        warnings=warnings,
        device=device,
        discard_zeroes=discard_zeroes,
        epoch_us=None,
    )


def _read(lines: Iterator[bytes]) -> Iterator[TracedRequest]:
    header = next(lines, b"")
    version = _VERSIONS.get(header)
    if version is None:
        raise MalformedRecord(
            f"the file begins with {quoted(header)}, not with 'fio version 3 iolog' or "
            "'fio version 2 iolog'"
        )
    for line in lines:
        fields = line.split()
        time_us = parse_number(fields.pop(0), "timestamp") if version == 3 else 0
        if len(fields) == 2 and fields[1] in _FILE_ACTIONS:
            continue
        if len(fields) != 4 or fields[1] not in _CHANGES.keys() | _WITHOUT_CHANGE:
            raise MalformedRecord(f"{quoted(line)} isn't an action of fio")
        name, action, offset, length = fields
        if action in _CHANGES:
            file = name.decode("utf-8", "backslashreplace")
            yield from transfer(
                file,
                _CHANGES[action],
                offset=parse_number(offset, "offset"),
                length=parse_number(length, "length"),
                time_us=time_us,
            )
