"""Files that prove one leaf offline: `.tlog-proof` (https://c2sp.org/tlog-proof). Pure."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Final, Self

from mirrorlog.errors import BadInput
from mirrorlog.transparency.merkle import HASH_BYTES
from mirrorlog.transparency.notes import SignedNote, decode_base64, decode_number, parse_note

_HEADER: Final = "c2sp.org/tlog-proof@v1"
_MAX_HASHES: Final = 63
_MAX_CHARS: Final = 4 << 20
SUFFIX: Final = ".tlog-proof"


@dataclass(frozen=True, slots=True)
class InclusionFile:
    """A proof that a log has a leaf. note: the signed checkpoint.

    index: of the leaf. path: RFC 6962's inclusion proof. extra: what the reader needs to compute
    the leaf's hash; nothing signs it.
    """

    index: int
    path: tuple[bytes, ...]
    note: SignedNote
    extra: bytes = b""

    def as_text(self) -> str:
        """Return the file's content."""
        lines = [_HEADER]
        if self.extra:
            lines.append(f"extra {b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [b64encode(sibling).decode() for sibling in self.path]
        return "\n".join(lines) + "\n\n" + self.note.as_text()

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """Return the proof in a file. Nothing of it is checked. Raise BadInput if it is none."""
        head, separator, note = text.partition("\n\n")
        lines = head.split("\n")
        if len(text) > _MAX_CHARS or not separator or lines.pop(0) != _HEADER:
            raise BadInput(f"this file is no proof: it must begin with {_HEADER}", where=where)
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), where=where)
        index = decode_number(lines.pop(0).removeprefix("index ")) if lines else None
        if index is None:
            raise BadInput("this proof names no index of a leaf", where=where)
        path = tuple(decode_base64(line, where=where) for line in lines)
        if len(path) > _MAX_HASHES or any(len(sibling) != HASH_BYTES for sibling in path):
            raise BadInput("a line of this proof is no hash", where=where)
        return cls(index, path, parse_note(note, where=where), extra)
