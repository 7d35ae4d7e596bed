"""Reads the I/O logs that fio's `write_iolog` writes.

fio's HOWTO, "Trace file format v2" and "v3", and iolog.c describe them.

    fio version 3 iolog
    30 /dev/vdb add                     microseconds since fio's start, file, action on the file
    95 /dev/vdb open
    162 /dev/vdb write 249856 4096      …, file, action, offset, length
    201 /dev/vdb sync 1970176 0         datasync and others too: they change no bytes
    950 /dev/vdb close

Version 2 has no times. The file's name may contain blanks: the nbd engine writes the job's name
there.

Each job appends its lines to the log, with a header of its own, in pieces of BUFFER_BYTES
(init_iolog_write in iolog.c). So jobs that run one after the other leave whole lists in one log.
Jobs that run at once tear each other's lines, and a job that was killed leaves a list without its
end.

Since 3.37 one trim may have several ranges (num_range; fill_multi_range_io_u in io_u.c). The log
has the offset of the last range, and the length of all of them. Only the engine io_uring_cmd does
that, on NVMe's character devices (/dev/ngXnY).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mirrorlog.producers.importers.change import AddressRange, ImportSource
from mirrorlog.producers.importers.reading import SourceReader
from mirrorlog.producers.importers.recordings import source_of_requests
from mirrorlog.producers.traces import RequestKind, TracedRequest
from mirrorlog.producers.traces.request import MalformedRecord, parse_number, quoted, transfer

BUFFER_BYTES: Final = 8192
MAX_FILES: Final = 1 << 16
"""This bounds the memory for the files of one job."""
_VERSIONS: Final = {b"fio version 2 iolog": 2, b"fio version 3 iolog": 3}
_CHANGES: Final = {b"write": RequestKind.WRITE, b"trim": RequestKind.DISCARD}
_WITHOUT_CHANGE: Final = frozenset(
    {b"read", b"wait", b"sync", b"datasync", b"syncfs", b"sync_file_range"}
)
_FILE_ACTIONS: Final = frozenset({b"add", b"open", b"close"})
_NVME_CHARACTER_DEVICE: Final = re.compile(r"(?:.*/)?ng[0-9]+n[0-9]+")


def fio_source(
    path: Path,
    volume: AddressRange,
    *,
    device: str | None = None,
    discard_zeroes: bool = False,
) -> ImportSource:
    """Read an I/O log of fio. See source_of_requests() for the options.

    volume: the range that is dirty where the whole volume is.
    device: one of the log's files. fio logs requests when it issues them; the log doesn't say
    whether they succeeded.

    The whole volume is dirty if the log lacks the end of its last job, or if it has a trim that may
    have several ranges. If the end of an earlier job is missing, its lines may be torn, and the log
    is refused.
    """
    warnings: list[str] = []

    def requests() -> Iterator[TracedRequest]:
        reader = SourceReader(path, "fio", warnings)
        with reader.opened() as stream:
            yield from _read(reader, reader.lines(stream), volume)

    return source_of_requests(
        "fio",
        requests,
        warnings=warnings,
        device=device,
        discard_zeroes=discard_zeroes,
        epoch_us=None,
    )


def _read(
    reader: SourceReader, lines: Iterator[bytes], volume: AddressRange
) -> Iterator[TracedRequest]:
    job: _JobLog | None = None
    for line in lines:
        if line in _VERSIONS:
            if job is not None and (problem := job.missing_end()):
                raise _torn(f"a job begins here, and the one before {problem}")
            job = _JobLog(_VERSIONS[line], reader, volume)
        elif job is None:
            raise _no_header(line)
        elif line.endswith(tuple(_VERSIONS)):
            raise _torn(f"a job begins in the middle of line {quoted(line)}")
        else:
            yield from job.requests_of(line)
    if job is None:
        raise _no_header(b"")
    if problem := job.missing_end():
        reader.warn(
            f"the last job {problem}: it was killed, or still ran. More may have been written, so "
            "the whole volume is dirty"
        )
        for file in job.files:
            yield job.whole_volume_write(file)


class _JobLog:
    """What one job wrote to the log, from its header on.

    files: the files that the job named, and whether each is in use: opened or accessed, and not
    closed since.
    """

    def __init__(self, version: int, reader: SourceReader, volume: AddressRange) -> None:
        """Begin with the header, which the reader has just read."""
        self.files: dict[str, bool] = {}
        self._version, self._reader, self._volume = version, reader, volume
        self._begin, self._time_us = reader.byte, 0
        self._trimmed_somewhere = set[str]()

    def requests_of(self, line: bytes) -> Iterator[TracedRequest]:
        """Yield the request that the line stands for, if it changes bytes."""
        text = line
        if self._version == 3:
            time, text = (*line.split(None, 1), b"", b"")[:2]
            self._time_us = parse_number(time, "timestamp")
        name, action = (*text.rsplit(None, 1), b"", b"")[:2]
        if action in _FILE_ACTIONS:
            self._note(name, in_use=action == b"open", unless_known=action == b"add")
            return
        fields = text.rsplit(None, 3)
        if len(fields) != 4 or fields[1] not in _CHANGES.keys() | _WITHOUT_CHANGE:
            raise MalformedRecord(
                f"{quoted(line)} isn't an action of fio",
                next="Check that the file is complete and of kind fio, and that one job at a time "
                "wrote to it: jobs that run at once tear each other's lines.",
            )
        name, action, offset, length = fields
        file = self._note(name, in_use=True)
        if action == b"trim" and _NVME_CHARACTER_DEVICE.fullmatch(file):
            yield from self._trim_somewhere(file)
        elif action in _CHANGES:
            yield from transfer(
                file,
                _CHANGES[action],
                offset=parse_number(offset, "offset"),
                length=parse_number(length, "length"),
                time_us=self._time_us,
            )

    def _trim_somewhere(self, file: str) -> Iterator[TracedRequest]:
        """Yield a write of the whole volume for the first trim of the file."""
        if file not in self._trimmed_somewhere:
            self._trimmed_somewhere.add(file)
            self._reader.warn(
                "a trim of an NVMe character device may have several ranges (num_range), and the "
                "log doesn't say which, so the whole volume is dirty"
            )
            yield self.whole_volume_write(file)

    def whole_volume_write(self, file: str) -> TracedRequest:
        """Return a write of the whole volume, in the name of `file`, at the last line's time."""
        volume = self._volume
        return TracedRequest(file, RequestKind.WRITE, volume.offset, volume.length, self._time_us)

    def _note(self, name: bytes, *, in_use: bool, unless_known: bool = False) -> str:
        file = name.decode("utf-8", "backslashreplace")
        if not (unless_known and file in self.files):
            self.files[file] = in_use
        if len(self.files) > MAX_FILES:
            raise MalformedRecord(f"a job of the log names more than {MAX_FILES:,} files")
        return file

    def missing_end(self) -> str:
        """Return what shows that the end of the job is missing, or "" if nothing does.

        Call it when the reader is at the next job's header, or at the end of the log. A job that
        was killed wrote whole pieces. Most of them end in the middle of a line.
        """
        in_use = (file for file, is_in_use in self.files.items() if is_in_use)
        if file := next(in_use, ""):
            return f"doesn't close '{file[:40]}'"
        if (self._reader.byte - self._begin) % BUFFER_BYTES == 0:
            return f"wrote whole pieces of {BUFFER_BYTES:,} bytes, as a job does that is killed"
        return ""


def _no_header(line: bytes) -> MalformedRecord:
    return MalformedRecord(
        f"the file begins with {quoted(line)}, not with 'fio version 3 iolog' or 'fio version 2 "
        "iolog'"
    )


def _torn(problem: str) -> MalformedRecord:
    return MalformedRecord(
        f"{problem}. Several jobs wrote to the log at once and tore its lines, or one was killed",
        next="Give each job a log of its own (write_iolog). If the jobs ran one after the other, "
        "cut the log in front of each header, and import the parts. Otherwise mark the volume "
        "dirty (`mirrorlog command send VOLUME --mark-dirty 0+SIZE`).",
    )
