"""The leaf that a command has in the tree of its partition. Pure.

    digest   SHA-256 of the command's exact bytes: its key and its value, each behind its length (8
             bytes, big-endian; all ones for null, as in histories.anchor_of)
    entry    position (8 bytes, big-endian), digest (32), link of the command before it (32)
    link     the leaf hash of the entry: SHA-256 of a zero byte and the entry (RFC 6962)

The link before the first command is SHA-256 of the log's origin, so no entry fits another log.

Everything comes from the commands topic alone, so anybody computes it again while the commands are
kept. Avro has more than one encoding of a value: the bytes count, not what they say. Positions may
have gaps (transactions' markers), so an entry names its own. What isn't part of it: the broker's
time of appending, and headers. A mirror or a restored broker may give other times, and mirrorlog
neither writes nor reads headers. An archive that keeps position and digest of each command (column
`sha256`) can be compared with the tree as well as the commands themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from mirrorlog.errors import BadInput, StateDamaged
from mirrorlog.transparency.merkle import HASH_BYTES
from mirrorlog.transparency.tiles import TiledLog

POSITION_BYTES: Final = 8
ENTRY_BYTES: Final = POSITION_BYTES + 2 * HASH_BYTES
_NULL: Final = b"\xff" * 8


def command_digest(key: bytes | None, value: bytes | None) -> bytes:
    """Return the SHA-256 of a command's exact bytes."""
    return sha256(_framed(key, value)).digest()


def first_link(origin: str) -> bytes:
    """Return the link before the first command of the log."""
    return sha256(origin.encode()).digest()


def chain(
    commands: Iterable[tuple[int, bytes | None, bytes | None]], link: bytes
) -> tuple[list[bytes], list[bytes]]:
    """Return the entries of commands and their leaf hashes, of which the last is the next link.

    commands: position, key and value of each, in order. link: of the command before the first.
    """
    return chain_digests(
        ((position, command_digest(key, value)) for position, key, value in commands), link
    )


def chain_digests(
    commands: Iterable[tuple[int, bytes]], link: bytes
) -> tuple[list[bytes], list[bytes]]:
    """Return what `chain` does. commands: position and digest of each, in order."""
    entries, hashes = [], []
    for position, digest in commands:
        entry = position.to_bytes(POSITION_BYTES, "big") + digest + link
        link = sha256(b"\x00" + entry).digest()
        entries.append(entry)
        hashes.append(link)
    return entries, hashes


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """The entry of one command. digest: of its bytes. previous: the link before it."""

    position: int
    digest: bytes
    previous: bytes

    @classmethod
    def parse(cls, entry: bytes, *, where: str) -> Self:
        """Return the parts of an entry. Raise StateDamaged if it has another length."""
        if len(entry) != ENTRY_BYTES:
            raise StateDamaged(
                f"an entry of the tree has {len(entry)} bytes and not {ENTRY_BYTES}",
                where=where,
                next="Restore the tree's files from a copy.",
            )
        digest_end = POSITION_BYTES + HASH_BYTES
        return cls(
            int.from_bytes(entry[:POSITION_BYTES], "big"),
            entry[POSITION_BYTES:digest_end],
            entry[digest_end:],
        )

    def as_bytes(self) -> bytes:
        """Return the entry as it is in the log."""
        return self.position.to_bytes(POSITION_BYTES, "big") + self.digest + self.previous


def last_position(files: TiledLog) -> int:
    """Return the position of the log's last leaf; -1 if it has none. Raise StateDamaged."""
    if not files.size:
        return -1
    return CommandEntry.parse(files.entry(files.size - 1), where="the last leaf").position


@dataclass(frozen=True, slots=True)
class ProvedCommand:
    """What a proof of a command carries beside its path: the entry, and the command if it is kept.

    entry: the leaf. message: the command's key and value; None if only its digest is known.
    """

    entry: bytes
    message: tuple[bytes | None, bytes | None] | None = None

    @property
    def leaf(self) -> CommandEntry:
        """The parts of the entry."""
        return CommandEntry.parse(self.entry, where="the proof")

    @property
    def holds(self) -> bool:
        """Whether the command, if there is one, is that of the entry."""
        return self.message is None or command_digest(*self.message) == self.leaf.digest

    def as_bytes(self) -> bytes:
        """Return the extra data of a proof: the entry, and then what the digest is of."""
        return self.entry + (b"" if self.message is None else _framed(*self.message))

    @classmethod
    def parse(cls, extra: bytes, *, where: str) -> Self:
        """Return what the extra data of a proof holds. Raise BadInput if it is of another kind."""
        entry, rest = extra[:ENTRY_BYTES], extra[ENTRY_BYTES:]
        parts: list[bytes | None] = []
        while rest and len(parts) < 2 and len(rest) >= len(_NULL):
            length, rest = rest[: len(_NULL)], rest[len(_NULL) :]
            size = 0 if length == _NULL else int.from_bytes(length, "big")
            if size > len(rest):
                break
            parts.append(None if length == _NULL else rest[:size])
            rest = rest[size:]
        if len(entry) != ENTRY_BYTES or rest or len(parts) not in (0, 2):
            raise BadInput("this proof doesn't hold a command's leaf", where=where)
        return cls(entry, (parts[0], parts[1]) if parts else None)


def _framed(key: bytes | None, value: bytes | None) -> bytes:
    """Return the bytes that a command's digest is of."""
    return b"".join(
        (
            _NULL if key is None else len(key).to_bytes(8, "big"),
            key or b"",
            _NULL if value is None else len(value).to_bytes(8, "big"),
            value or b"",
        )
    )
