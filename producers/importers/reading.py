"""Reads files to import, as lines or as JSON lists, in bounded memory, with the place of errors."""

from __future__ import annotations

import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.errors import BadInput
from mirrorlog.producers.traces.request import MalformedRecord, quoted

STDIN: Final = Path("-")
MAX_LINE_BYTES: Final = 4096
MAX_ENTRY_BYTES: Final = 1 << 16
"""The limit of an entry of a JSON list, and of an XML tag. Tools write a few hundred bytes."""
CHUNK_BYTES: Final = 1 << 16
_MAX_WARNINGS: Final = 20


def add_doubt(warnings: list[str], text: str) -> None:
    """Note that something was treated as dirty in doubt. The same text is kept once.

    warnings: see ImportSource. Only the first few texts are kept.
    """
    if text not in warnings and len(warnings) < _MAX_WARNINGS:
        warnings.append(text)


class SourceReader:
    """Reads one file, and knows the position.

    record: the number of the line, entry or event that is read, from 1.
    byte: where that record begins in the file.
    """

    def __init__(self, path: Path, kind: str, warnings: list[str]) -> None:
        """Name the file, which opened() opens.

        kind: the source's kind, for errors. warnings: takes texts (see ImportSource).
        """
        self.record, self.byte = 0, 0
        self._path, self._kind, self._warnings = path, kind, warnings

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file from its beginning. Errors inside become BadInput, with their place."""
        self.record = self.byte = 0
        try:
            with self._path.open("rb") as stream:
                yield stream
        except MalformedRecord as error:
            position = f", record {self.record}, byte {self.byte}" if self.record else ""
            raise BadInput(
                f"reading a source of kind {self._kind}: {error}",
                where=f"{self._path}{position}",
                next=error.next or f"Check that the file is complete and of kind {self._kind}.",
            ) from error
        except OSError as error:
            raise BadInput(
                f"the file can't be read: {error.strerror or error}",
                where=str(self._path),
                next="Check its path and its permissions.",
            ) from error

    def next_record(self, previous_bytes: int) -> None:
        """Note that the next record is read. The previous one had `previous_bytes` bytes."""
        self.record += 1
        self.byte += previous_bytes

    def move_to(self, record: int, byte: int) -> None:
        """Note that the record with this number is read, which begins at this byte."""
        self.record, self.byte = record, byte

    def warn(self, text: str) -> None:
        """Note that something was treated as dirty in doubt. The same text is kept once."""
        add_doubt(self._warnings, text)

    def lines(self, stream: BinaryIO) -> Iterator[bytes]:
        """Yield the lines that aren't blank, without their line ends.

        The last line must have a line end too: a number that was cut off is still a number.
        """
        line = b""
        while True:
            self.next_record(len(line))
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise MalformedRecord(f"a line has more than {MAX_LINE_BYTES:,} bytes")
            if not line.endswith(b"\n"):
                raise MalformedRecord(f"line {quoted(line)} has no line end: the file was cut off")
            if text := line.rstrip(b"\r\n"):
                yield text

    def entries(self, stream: BinaryIO) -> Iterator[Mapping[str, Any]]:
        """Yield the objects of a JSON list (RFC 8259) one at a time, in any layout."""
        text = _JsonScanner(stream)
        if text.take() != "[":
            raise MalformedRecord("the file doesn't begin with '[', as a JSON list does")
        separator = text.take() if text.peek() == "]" else ","
        while separator == ",":
            text.peek()
            self.move_to(self.record + 1, text.offset)
            entry = text.value()
            if not isinstance(entry, dict):
                raise MalformedRecord("an entry of the list isn't an object")
            yield entry
            separator = text.take()
        if separator != "]":
            self.byte = text.offset - len(separator)
            raise MalformedRecord(
                "neither ',' nor ']' follows an entry"
                if separator
                else "the list ends before its ']'"
            )
        if text.take():
            raise MalformedRecord("something follows the list")


class _JsonScanner:
    """Reads a JSON text through a window.

    The text is decoded as Latin-1, so that each character is one byte. Only names contain
    characters outside of ASCII.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._window, self._at, self._before = stream, "", 0, 0

    @property
    def offset(self) -> int:
        """Return the position in the file, in bytes."""
        return self._before + self._at

    def peek(self) -> str:
        """Return the next character that isn't white space, or "" at the end, and don't move."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def take(self) -> str:
        """Return the same character as peek(), and move behind it."""
        character = self.peek()
        self._at += len(character)
        return character

    def value(self) -> Any:
        """Return the value that begins at the position of peek(), and move behind it."""
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._window, self._at)
                return value
            except json.JSONDecodeError as error:
                if len(self._window) - self._at > MAX_ENTRY_BYTES:
                    raise MalformedRecord(
                        f"an entry isn't JSON, or has more than {MAX_ENTRY_BYTES:,} bytes"
                    ) from error
                if not self._more():
                    raise MalformedRecord(f"the entry isn't complete JSON: {error.msg}") from error
            except (RecursionError, ValueError) as error:
                raise MalformedRecord("the entry has a value that no known tool writes") from error

    def _more(self) -> bool:
        """Read another chunk into the window. Return False at the end of the file."""
        chunk = self._stream.read(CHUNK_BYTES)
        self._before += self._at
        self._window, self._at = self._window[self._at :] + chunk.decode("latin-1"), 0
        return bool(chunk)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def integer_field(entry: Mapping[str, Any], name: str) -> int:
    """Return the byte count or address under `name`. MalformedRecord if it isn't one."""
    value = entry.get(name)
    if type(value) is not int or not 0 <= value <= MAX_BYTE:
        raise MalformedRecord(
            f"'{name}' of the entry is {json.dumps(value)[:60]}, not a whole number from 0 to "
            f"{MAX_BYTE}"
        )
    return value


def boolean_field(entry: Mapping[str, Any], name: str) -> bool:
    """Return the Boolean under `name`. MalformedRecord if it isn't one."""
    value = entry.get(name)
    if not isinstance(value, bool):
        raise MalformedRecord(
            f"'{name}' of the entry is {json.dumps(value)[:60]}, neither true nor false"
        )
    return value


@contextmanager
def as_regular_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give regular files with the contents of `paths`, which can be read more than once.

    The standard input (-) and pipes are copied to temporary files until the context ends. BadInput
    if a path can't be read.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_as_regular_file(path)) for path in paths]


@contextmanager
def _as_regular_file(path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            mode = stat.S_IFIFO if path == STDIN else path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise BadInput(
                    "the path is a directory",
                    where=str(path),
                    next="Name a file, or - for the standard input.",
                )
            if not stat.S_ISREG(mode):
                copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="mirrorlog-import-"))
                with sys.stdin.buffer if path == STDIN else path.open("rb") as stream:
                    shutil.copyfileobj(stream, copy, 1 << 20)
                copy.flush()
                path = Path(copy.name)
        except OSError as error:
            raise BadInput(
                f"the source can't be read: {error.strerror or error}",
                where=str(path),
                next="Check its path and its permissions. For a pipe, check the free space in "
                f"{tempfile.gettempdir()}.",
            ) from error
        yield path
