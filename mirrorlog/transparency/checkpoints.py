"""Checkpoints: the root of a log at a size, signed (https://c2sp.org/tlog-checkpoint). Pure."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Self

from mirrorlog.errors import BadInput
from mirrorlog.transparency.merkle import EMPTY_ROOT, HASH_BYTES
from mirrorlog.transparency.notes import SignedNote, decode_base64, decode_number


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a checkpoint says: the log `origin` has `size` leaves, and their root is `root`."""

    origin: str
    size: int
    root: bytes

    def as_text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """Return what the text of a checkpoint says. Raise BadInput if it is none.

        Further lines (extensions) are allowed, and mean nothing here.
        """
        origin, *lines = text.removesuffix("\n").split("\n")
        if len(lines) < 2 or not origin or not all(lines) or not text.endswith("\n"):
            raise BadInput("this is no checkpoint: it lacks lines", where=where)
        size_text, root_text = lines[:2]
        if (size := decode_number(size_text)) is None:
            raise BadInput(f"'{size_text[:40]}' is no size of a tree", where=where)
        root = decode_base64(root_text, where=where)
        if len(root) != HASH_BYTES or size >= 1 << 63 or (size == 0 and root != EMPTY_ROOT):
            raise BadInput("this is no checkpoint: its root isn't that of a tree", where=where)
        return cls(origin, size, root)

    @classmethod
    def of_note(cls, note: SignedNote, *, where: str) -> Self:
        """Return what a signed note says as a checkpoint. Raise BadInput if it is none."""
        return cls.parse(note.text, where=where)
