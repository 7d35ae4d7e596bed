"""Opens recordings: detects their format, and reads their requests one at a time."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.traces import blkparse, mltrace, msr, tencent, vscsi
from mirrorlog.producers.traces.request import (
    MalformedRecord,
    RequestKind,
    TracedRequest,
    quoted,
)

AUTO: Final = "auto"
FORMATS: Final = {
    trace_format.name: trace_format
    for trace_format in (vscsi.FORMAT, msr.FORMAT, tencent.FORMAT, blkparse.FORMAT, mltrace.FORMAT)
}
HEAD_BYTES: Final = 1 << 16
"""The size of the beginning of a file from which its format is detected."""
MAX_LINE_BYTES: Final = 4096
MAX_VOLUMES: Final = 1 << 16
"""This bounds the memory of callers that keep something for each volume of a recording."""

_NO_CHANGE: Final = frozenset({RequestKind.READ, RequestKind.FLUSH})


@dataclass(frozen=True, slots=True)
class Trace:
    """A recording that can be read repeatedly, in bounded memory.

    Only a complete pass proves that it is sound.
    """

    path: Path
    format: str

    @property
    def name(self) -> str:
        """Return the file's name, to show it."""
        return self.path.name

    def requests(self, *, allow_no_change: bool = False) -> Iterator[TracedRequest]:
        """Yield writes, zeroes, discards and flushes in the order of the file.

        BadInput, with the place, if a record is malformed, or if no request changes the volume,
        unless `allow_no_change`.
        """
        records = self.records(allow_no_change=allow_no_change)
        return (request for request in records if request.kind is not RequestKind.READ)

    def records(self, *, allow_no_change: bool = False) -> Iterator[TracedRequest]:
        """Yield all requests, with reads, in the order of the file. BadInput as in requests()."""
        with self.framed() as framed:
            volumes: set[str] = set()
            changes = False
            for request in FORMATS[self.format].read(framed, _volume_name(self.path)):
                volumes.add(request.volume)
                if len(volumes) > MAX_VOLUMES:
                    raise MalformedRecord(f"the recording names more than {MAX_VOLUMES:,} volumes")
                changes = changes or request.kind not in _NO_CHANGE
                yield request
            if not (changes or allow_no_change):
                raise MalformedRecord("the recording ends without a write in it")

    @contextmanager
    def framed(self) -> Iterator[Iterator[bytes]]:
        """Give the file's records as bytes: lines without their ends, or blocks of one size.

        Errors inside become BadInput, with their place.
        """
        reader = TraceReader(self.path, self.format)
        record_bytes = FORMATS[self.format].record_bytes
        with reader.located_errors(), _opened(self.path) as (stream, _):
            yield (
                reader.fixed_records(stream, record_bytes) if record_bytes else reader.lines(stream)
            )


def open_trace(path: Path, format: str = AUTO) -> Trace:
    """Open the recording at `path`, which may be compressed with gzip or bzip2.

    format: one of FORMATS, or `auto` to detect it from the content.
    Raise BadInput if the file can't be read, is empty or isn't recognized. Raise BadUse if there is
    no such format.
    """
    if format not in (AUTO, *FORMATS):
        raise BadUse(
            f"'{format}' isn't a format of a trace", next=f"Formats: {AUTO}, {', '.join(FORMATS)}."
        )
    reader = TraceReader(path, format)
    with reader.located_errors(), _opened(path) as (stream, compressed):
        reader.move_to_first()
        head = stream.read(HEAD_BYTES)
        if not head:
            raise MalformedRecord("the file is empty")
        trace_format = FORMATS[_recognized(head) if format == AUTO else format]
        if trace_format.compressed and not compressed:
            raise MalformedRecord(
                f"the file isn't compressed, and a trace of format {trace_format.name} needs the "
                "checksum of its compression"
            )
    return Trace(path, trace_format.name)


def _recognized(head: bytes) -> str:
    for trace_format in FORMATS.values():
        if trace_format.recognizes(head):
            return trace_format.name
    raise MalformedRecord(
        "the file has no known format", next=f"Name its format: {', '.join(FORMATS)}."
    )


class TraceReader:
    """Splits a file into records, knows the position, and adds it to errors.

    record: the number of the record, from 1; in a text format, of the line.
    byte: where the record begins in the decompressed file.
    """

    def __init__(self, path: Path, format: str) -> None:
        self._path = path
        self._format = format
        self.record = 0
        self.byte = 0

    def move_to_first(self) -> None:
        """Note that the first record is read."""
        self.record = 1

    def lines(self, stream: io.BufferedIOBase) -> Iterator[bytes]:
        """Yield the lines that aren't blank, without their line ends.

        The last line must have a line end too: a number that was cut off is still a number.
        """
        line = b""
        while True:
            self.record += 1
            self.byte += len(line)
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise MalformedRecord(f"a line has more than {MAX_LINE_BYTES:,} bytes")
            if b"\0" in line:
                raise MalformedRecord("there is binary data instead of a line of text")
            if not line.endswith(b"\n"):
                raise MalformedRecord(f"line {quoted(line)} has no line end: the file was cut off")
            if text := line.rstrip(b"\r\n"):
                yield text

    def fixed_records(self, stream: io.BufferedIOBase, size_bytes: int) -> Iterator[bytes]:
        """Yield records of `size_bytes` bytes each."""
        block = b""
        while True:
            self.record += 1
            self.byte += len(block)
            block = stream.read(size_bytes)
            if not block:
                return
            if len(block) < size_bytes:
                raise MalformedRecord(
                    f"the file ends after {len(block)} of a record's {size_bytes} bytes"
                )
            yield block

    @contextmanager
    def located_errors(self) -> Iterator[None]:
        """Turn each error of the file into BadInput with its place."""
        try:
            yield
        except MalformedRecord as error:
            raise self._bad(str(error), error.next) from error
        except (EOFError, zlib.error) as error:
            raise self._bad(f"the compressed data is damaged or cut off: {error}") from error
        except OSError as error:
            # gzip and bz2 raise an OSError without a number for damaged data.
            what = (
                "the compressed data is damaged"
                if error.errno is None
                else "the file can't be read"
            )
            advice = "" if error.errno is None else "Check its path and its permissions."
            raise self._bad(f"{what}: {error.strerror or error}", advice) from error

    def _bad(self, what: str, advice: str = "") -> BadInput:
        position = f", record {self.record}, byte {self.byte}" if self.record else ""
        expected = "" if self._format == AUTO else f" and of the format {self._format}"
        return BadInput(
            f"reading a trace: {what}",
            where=f"{self._path}{position}",
            next=advice or f"Check that the file is complete{expected}.",
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, bool]]:
    """Give the file's decompressed content, and whether the file was compressed.

    Only a regular file is opened, so that this never waits.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "is a directory" if stat.S_ISDIR(mode) else "isn't a regular file"
        raise MalformedRecord(f"the path {what}", next="Name a file: it is read more than once.")
    with path.open("rb") as raw:
        magic = raw.peek(3)[:3]
        stream: io.BufferedIOBase = raw
        if magic.startswith(b"\x1f\x8b"):
            stream = gzip.GzipFile(fileobj=raw)
        elif magic == b"BZh":
            stream = bz2.BZ2File(raw)
        yield stream, stream is not raw


def _volume_name(path: Path) -> str:
    """Return a name for the volume of a recording that doesn't name it.

    It is the file's stem, without characters that a volume's name can't have.
    """
    stem = Path(re.sub(r"\.(gz|bz2)$", "", path.name)).stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:200] or "volume"
