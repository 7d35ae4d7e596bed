"""How the mark of a primary or a secondary lies on disk.

Format, version 1: a line of sealed_json.py, with the fields of the mark, `format` and `version`. A
file that differs from this in any byte is damaged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Final, Generic, TypeVar

from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged
from mirrorlog.json_text import parse_json

_VERSION: Final = 1
_KNOWN_MARKS: Final = 4096
"""How many decoded marks are kept. A site reads the mark of a secondary whenever it looks at it,
mostly with the same bytes as before."""
Mark = TypeVar("Mark", PrimaryMark, SecondaryMark)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFormat(Generic[Mark]):
    """The format of one kind of mark.

    kind: the class of the mark. name: of the format, in the file. max_bytes: a larger file is no
        mark, and isn't read.
    what, writer: name the mark and who writes it, for errors. next_if_damaged, next_if_failed: what
        the reader of an error can do.
    """

    kind: type[Mark]
    name: str
    max_bytes: int
    what: str
    writer: str
    next_if_damaged: str
    next_if_failed: str

    def encode(self, mark: Mark) -> bytes:
        """Return the bytes of a mark on disk."""
        return sealed_line({"format": self.name, "version": _VERSION, **asdict(mark)})

    def decode(self, content: bytes, where: str) -> Mark:
        """Return the mark that these bytes hold.

        where: names their source in the error. Raise StateDamaged unless the bytes are exactly
        those that encode() makes.
        """
        mark: Mark | None = _decoded(self, content)
        if mark is not None:
            return mark
        raise StateDamaged(
            f"{self.what} can't be trusted: it isn't what {self.writer} writes",
            where=where,
            next=self.next_if_damaged,
        )

    def intact(self, content: bytes) -> Mark | None:
        """Return the mark that these bytes hold; None unless they are exactly what encode() makes.

        Their meaning depends on nothing else.
        """
        try:
            document = parse_json(content[: self.max_bytes])
            mark = self.kind(**{field.name: document[field.name] for field in fields(self.kind)})
            return mark if self.encode(mark) == content else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadUse):
            return None

    def read(self, path: Path) -> Mark | None:
        """Return the mark in a file; None if there is none.

        Raise StateDamaged if it is damaged, DeviceFailed if it can't be read.
        """
        try:
            with path.open("rb") as file:
                content = file.read(self.max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self.failed("reading", path, error) from error
        return self.decode(content, str(path))

    def failed(self, doing: str, path: Path, error: OSError) -> DeviceFailed:
        """Return the error for a mark that can't be read or written. doing: `reading`, `writing`"""
        return DeviceFailed(
            f"{doing} {self.what} failed: {error.strerror or error}",
            where=f"{path}, offset 0",
            next=self.next_if_failed,
        )


@lru_cache(maxsize=_KNOWN_MARKS)
def _decoded(mark_format: MarkFormat[Mark], content: bytes) -> Mark | None:
    return mark_format.intact(content)
