"""Opening a recording: what format it has, and its records one at a time, each with its place in the file."""

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
from mirrorlog.producers.traces.request import MalformedRecord, RequestKind, TracedRequest

AUTO: Final = "auto"
FORMATS: Final = {
    trace_format.name: trace_format
    for trace_format in (vscsi.FORMAT, msr.FORMAT, tencent.FORMAT, blkparse.FORMAT, mltrace.FORMAT)
}
HEAD_BYTES: Final = 1 << 16
"""As much is looked at to tell the format."""
MAX_LINE_BYTES: Final = 4096
MAX_VOLUMES: Final = 1 << 16
"""Whoever keeps something for each volume of a recording is bounded by this."""

_NO_CHANGE: Final = frozenset({RequestKind.READ, RequestKind.FLUSH})


@dataclass(frozen=True, slots=True)
class Trace:
    """A recording, read as often as one likes, in bounded memory. Only a whole pass proves it sound."""

    path: Path
    format: str

    @property
    def name(self) -> str:
        """The file's name, for people."""
        return self.path.name

    def requests(self) -> Iterator[TracedRequest]:
        """Writes, zeroes, discards and flushes in the order of the file. BadInput where a record is broken."""
        return (request for request in self.records() if request.kind is not RequestKind.READ)

    def records(self) -> Iterator[TracedRequest]:
        """The same, with the reads."""
        reader = TraceReader(self.path, self.format)
        trace_format = FORMATS[self.format]
        with reader.located_errors(), _opened(self.path) as (stream, _):
            framed = (
                reader.fixed_records(stream, trace_format.record_bytes)
                if trace_format.record_bytes
                else reader.lines(stream)
            )
            volumes: set[str] = set()
            changes = False
            for request in trace_format.read(framed, _volume_name(self.path)):
                volumes.add(request.volume)
                if len(volumes) > MAX_VOLUMES:
                    raise MalformedRecord(f"the recording names more than {MAX_VOLUMES:,} volumes")
                changes = changes or request.kind not in _NO_CHANGE
                yield request
            if not changes:
                raise MalformedRecord("the recording ends without a write in it")


def open_trace(path: Path, format: str = AUTO) -> Trace:
    """The recording at `path`, compressed with gzip or bzip2 or not at all.

    format: one of FORMATS, or `auto` to tell it from the content. BadInput where the file can't be read, is empty or
    isn't recognised; BadUse where no format has that name.
    """
    if format not in (AUTO, *FORMATS):
        raise BadUse(
            f"'{format}' is no format of a trace", next=f"Formats: {AUTO}, {', '.join(FORMATS)}."
        )
    reader = TraceReader(path, format)
    with reader.located_errors(), _opened(path) as (stream, compressed):
        reader.record = 1
        head = stream.read(HEAD_BYTES)
        if not head:
            raise MalformedRecord("the file is empty")
        trace_format = FORMATS[_recognized(head) if format == AUTO else format]
        if trace_format.sealed and not compressed:
            raise MalformedRecord(
                f"a trace of format {trace_format.name} is compressed, which gives it its checksum, and this is not"
            )
    return Trace(path, trace_format.name)


def _recognized(head: bytes) -> str:
    for trace_format in FORMATS.values():
        if trace_format.recognizes(head):
            return trace_format.name
    raise MalformedRecord(
        "the file is of no format that is known", next=f"Name its format: {', '.join(FORMATS)}."
    )


class TraceReader:
    """Where in a file the reading is, and how what goes wrong there is told.

    record counts from 1 (in a text format it is the line), byte is where it begins in the decompressed file.
    """

    def __init__(self, path: Path, format: str) -> None:
        self._path = path
        self._format = format
        self.record = 0
        self.byte = 0

    def lines(self, stream: io.BufferedIOBase) -> Iterator[bytes]:
        """The lines that aren't blank, without their ends."""
        line = b""
        while True:
            self.record += 1
            self.byte += len(line)
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise MalformedRecord(f"a line of more than {MAX_LINE_BYTES:,} bytes")
            if b"\0" in line:
                raise MalformedRecord("binary data where a line of text should be")
            if text := line.rstrip(b"\r\n"):
                yield text

    def fixed_records(self, stream: io.BufferedIOBase, size_bytes: int) -> Iterator[bytes]:
        """Records of `size_bytes` each."""
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
        """Whatever is wrong with the file becomes BadInput with its place."""
        try:
            yield
        except MalformedRecord as error:
            raise self._bad(str(error), error.next) from error
        except (EOFError, zlib.error) as error:
            raise self._bad(f"the compressed data is damaged or cut off: {error}") from error
        except OSError as error:
            # gzip and bz2 tell of damage by an OSError of their own, without a number.
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
            next=advice or f"Check that the file is whole{expected}.",
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, bool]]:
    """(the file's bytes, decompressed; whether they were compressed). Never waits: only a regular file is opened."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise MalformedRecord(f"this is {what}", next="Name a file: it is read more than once.")
    with path.open("rb") as raw:
        magic = raw.peek(3)[:3]
        stream: io.BufferedIOBase = raw
        if magic.startswith(b"\x1f\x8b"):
            stream = gzip.GzipFile(fileobj=raw)
        elif magic == b"BZh":
            stream = bz2.BZ2File(raw)
        yield stream, stream is not raw


def _volume_name(path: Path) -> str:
    """A name for the volume of a recording that doesn't name it: the file's stem, made safe."""
    stem = Path(re.sub(r"\.(gz|bz2)$", "", path.name)).stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:200] or "volume"
