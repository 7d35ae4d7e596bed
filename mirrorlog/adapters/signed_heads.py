"""The heads that a key has signed, beside the key: it never signs one that contradicts another.

A key must not sign two trees of one name that differ at one size. So each signature is preceded by
a durable note of what is signed, and each note by a proof that the tree of the one before it is the
beginning of this one.
"""

from __future__ import annotations

import fcntl
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from mirrorlog.adapters.folders import replace_files
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.errors import DifferenceFound, StateDamaged
from mirrorlog.json_text import parse_json
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.merkle import consistency_proof, is_consistent
from mirrorlog.transparency.tiles import ReadFile, TiledLog

_NEXT: Final = "Look at the file system there (space, permissions), then try again."


class SignedHeads:
    """What one key has signed last, by the log's origin. The key's file is locked meanwhile."""

    def __init__(self, path: Path, heads: dict[str, TreeHead]) -> None:
        """Use `opened`."""
        self._path, self._heads = path, heads

    @classmethod
    @contextmanager
    def opened(cls, key: Path) -> Iterator[Self]:
        """Lock the key against other signers, and read what it has signed (`KEY.signed`).

        Raise StateDamaged if the note can't be read, DeviceFailed for other failures.
        """
        path = key.with_name(f"{key.name}.signed")
        with os_errors_named("the notes of this key can't be used", path, _NEXT):
            descriptor = os.open(key, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            with os_errors_named("the notes of this key can't be read", path, _NEXT):
                heads = _read(path)
            yield cls(path, heads)
        finally:
            os.close(descriptor)

    def last(self, origin: str) -> TreeHead | None:
        """Return what was signed last of a log; None if nothing was."""
        return self._heads.get(origin)

    def note(self, head: TreeHead, read: ReadFile, *, where: str) -> None:
        """Note durably that `head` is signed next. Call it before the signature is made.

        read: reads a file of the log. where: names the log's folder, for errors.

        Raise DifferenceFound if `head` contradicts what was signed last, or is an earlier one.
        """
        last = self.last(head.origin)
        if last is not None:
            _check_continues(last, head, read, where)
        with os_errors_named("the notes of this key can't be written", self._path, _NEXT):
            self._heads[head.origin] = head
            content = {
                known.origin: {"size": known.size, "root": b64encode(known.root).decode()}
                for known in self._heads.values()
            }
            replace_files({self._path: json.dumps(content, indent=1).encode()})


def _check_continues(last: TreeHead, head: TreeHead, read: ReadFile, where: str) -> None:
    if head.size < last.size:
        raise DifferenceFound(
            f"this key has signed the log at {last.size} leaves, and it has {head.size} now",
            where=where,
            next="Let the tree grow again, then repeat this. If it can't, commands are gone.",
        )
    proof = consistency_proof(TiledLog(read, head.size, where=where), last.size, head.size)
    if not is_consistent(last.size, head.size, proof, last.root, head.root):
        raise DifferenceFound(
            f"the log of {head.size} leaves doesn't begin with the {last.size} leaves that this "
            "key has signed: a leaf of these was altered",
            where=where,
            next="Nothing was signed. `mirrorlog audit check` with the earlier checkpoint says "
            "which position differs.",
        )


def _read(path: Path) -> dict[str, TreeHead]:
    try:
        content = parse_json(path.read_bytes())
        return {
            origin: TreeHead(origin, int(fields["size"]), b64decode(fields["root"], validate=True))
            for origin, fields in content.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateDamaged(
            "the note of what this key has signed can't be read",
            where=str(path),
            next="Restore it from a copy. Without it, the key may sign what contradicts an earlier "
            "signature: make a new key instead.",
        ) from error
