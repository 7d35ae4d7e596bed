"""Files to import: where the reading is, what is wrong there, and lines and JSON lists taken apart in bounded memory."""

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
"""Of one entry of a JSON list, or of one tag: the longest that a tool writes has a few hundred bytes."""
CHUNK_BYTES: Final = 1 << 16
_MAX_WARNINGS: Final = 20


class SourceReader:
    """One file while it is read. record: which line, entry or event, from 1; byte: where it begins.

    warnings: see ImportSource; the same text is kept once.
    """

    def __init__(self, path: Path, kind: str, warnings: list[str]) -> None:
        self.record, self.byte = 0, 0
        self._path, self._kind, self._warnings = path, kind, warnings

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, from its beginning. Whatever is wrong with it becomes BadInput with its place."""
        self.record = self.byte = 0
        try:
            with self._path.open("rb") as stream:
                yield stream
        except MalformedRecord as error:
            place = f", record {self.record}, byte {self.byte}" if self.record else ""
            raise BadInput(
                f"reading a source of the kind {self._kind}: {error}",
                where=f"{self._path}{place}",
                next=error.next or f"Check that the file is whole and of the kind {self._kind}.",
            ) from error
        except OSError as error:
            raise BadInput(
                f"the file can't be read: {error.strerror or error}", where=str(self._path)
            ) from error

    def warn(self, text: str) -> None:
        """Something was taken for dirty, in doubt."""
        if text not in self._warnings and len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(text)

    def lines(self, stream: BinaryIO) -> Iterator[bytes]:
        """The lines that aren't blank, without their ends. The last must have one: a number that was cut is a number too."""
        line = b""
        while True:
            self.record += 1
            self.byte += len(line)
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise MalformedRecord(f"a line of more than {MAX_LINE_BYTES:,} bytes")
            if not line.endswith(b"\n"):
                raise MalformedRecord(f"the line {quoted(line)} doesn't end: the file was cut off")
            if text := line.rstrip(b"\r\n"):
                yield text

    def entries(self, stream: BinaryIO) -> Iterator[Mapping[str, Any]]:
        """The objects of a JSON list (RFC 8259), one at a time, however they are laid out."""
        text = _JsonScanner(stream)
        if text.take() != "[":
            raise MalformedRecord("it doesn't begin with '[': a JSON list is expected")
        separator = text.take() if text.peek() == "]" else ","
        while separator == ",":
            text.peek()
            self.record, self.byte = self.record + 1, text.offset
            entry = text.value()
            if not isinstance(entry, dict):
                raise MalformedRecord("an entry of the list isn't an object")
            yield entry
            separator = text.take()
        if separator != "]":
            self.byte = text.offset - len(separator)
            raise MalformedRecord(
                "neither ',' nor ']' after an entry"
                if separator
                else "the list ends before its ']'"
            )
        if text.take():
            raise MalformedRecord("something follows the list")


class _JsonScanner:
    """A JSON text in a window. It is read as Latin-1, so that characters are bytes: what isn't ASCII is in names only."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._window, self._at, self._before = stream, "", 0, 0

    @property
    def offset(self) -> int:
        """Where the reading is: a byte of the file."""
        return self._before + self._at

    def peek(self) -> str:
        """The next character that isn't space, "" at the end; it stays."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def take(self) -> str:
        """The same, taken."""
        found = self.peek()
        self._at += len(found)
        return found

    def value(self) -> Any:
        """The value that begins where peek() stopped."""
        while True:
            try:
                found, self._at = _DECODER.raw_decode(self._window, self._at)
                return found
            except json.JSONDecodeError as error:
                if len(self._window) - self._at > MAX_ENTRY_BYTES:
                    raise MalformedRecord(
                        f"an entry that isn't JSON, or has more than {MAX_ENTRY_BYTES:,} bytes"
                    ) from error
                if not self._more():
                    raise MalformedRecord(f"the entry isn't whole JSON: {error.msg}") from error
            except (RecursionError, ValueError) as error:
                raise MalformedRecord("the entry has a value that no tool writes") from error

    def _more(self) -> bool:
        chunk = self._stream.read(CHUNK_BYTES)
        self._before += self._at
        self._window, self._at = self._window[self._at :] + chunk.decode("latin-1"), 0
        return bool(chunk)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def integer_field(entry: Mapping[str, Any], name: str) -> int:
    """The byte count or address under `name`."""
    found = entry.get(name)
    if type(found) is not int or not 0 <= found <= MAX_BYTE:
        raise MalformedRecord(
            f"'{name}' of the entry is {json.dumps(found)[:60]} and not a whole number from 0 to {MAX_BYTE}"
        )
    return found


def boolean_field(entry: Mapping[str, Any], name: str) -> bool:
    """The truth value under `name`."""
    found = entry.get(name)
    if not isinstance(found, bool):
        raise MalformedRecord(
            f"'{name}' of the entry is {json.dumps(found)[:60]} and neither true nor false"
        )
    return found


@contextmanager
def as_regular_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths of regular files with these contents: what can be read only once (-, a pipe) is kept in a file meanwhile.

    The first pass proves a source sound before the second publishes it.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_kept(path)) for path in paths]


@contextmanager
def _kept(path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            mode = stat.S_IFIFO if path == STDIN else path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise BadInput(
                    "this is a directory",
                    where=str(path),
                    next="Name a file, or - for the standard input.",
                )
            if not stat.S_ISREG(mode):
                kept = stack.enter_context(tempfile.NamedTemporaryFile(prefix="mirrorlog-import-"))
                with sys.stdin.buffer if path == STDIN else path.open("rb") as stream:
                    shutil.copyfileobj(stream, kept, 1 << 20)
                kept.flush()
                path = Path(kept.name)
        except OSError as error:
            raise BadInput(
                f"the source can't be read: {error.strerror or error}",
                where=str(path),
                next=f"Check its path and its permissions, and for a pipe the room in {tempfile.gettempdir()}.",
            ) from error
        yield path
