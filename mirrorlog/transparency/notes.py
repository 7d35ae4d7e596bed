"""Signed notes: text with signatures, as https://c2sp.org/signed-note defines them. Pure.

The text ends with a newline. A blank line and one line for each signature follow it. A signature's
line names the key, and holds four bytes that identify key and algorithm, and the signature.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from mirrorlog.errors import BadInput

ED25519_TYPE: Final = 1
"""The type of an Ed25519 signature of the note's text."""
COSIGNATURE_TYPE: Final = 4
"""The type of a witness's signature with a time (https://c2sp.org/tlog-cosignature)."""
KEY_ID_BYTES: Final = 4
_MAX_SIGNATURES: Final = 64
_MAX_BYTES: Final = 1 << 20
_SIGNATURE_START: Final = "\u2014 "


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature of a note. name: of the key. key_id: KEY_ID_BYTES. signature: what follows."""

    name: str
    key_id: bytes
    signature: bytes

    def as_line(self) -> str:
        """Return the signature's line, with its newline."""
        payload = b64encode(self.key_id + self.signature).decode()
        return f"{_SIGNATURE_START}{self.name} {payload}\n"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A text, with its final newline, and the signatures under it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def as_text(self) -> str:
        """Return the note as it is kept in a file."""
        return f"{self.text}\n" + "".join(signature.as_line() for signature in self.signatures)

    def with_signature(self, added: NoteSignature) -> SignedNote:
        """Return the note with one more signature, in the place of an earlier one of that key."""
        others = tuple(
            kept
            for kept in self.signatures
            if (kept.name, kept.key_id) != (added.name, added.key_id)
        )
        return SignedNote(self.text, (*others, added))


class NoteVerifier(Protocol):
    """A public key under a name. It recognizes its signatures by `name` and `key_id`."""

    @property
    def name(self) -> str: ...

    @property
    def key_id(self) -> bytes: ...

    def is_valid(self, text: str, signature: bytes) -> bool:
        """Return whether `signature` is this key's signature of the note's text."""


def is_key_name(name: str) -> bool:
    """Return whether a key may have this name."""
    forbidden = any(char.isspace() or ord(char) < 0x20 or char == "+" for char in name)
    return bool(name) and not forbidden


def check_key_name(name: str) -> str:
    """Return the name. Raise BadInput unless a key may have it."""
    if not is_key_name(name):
        raise BadInput("the name of a key holds neither spaces nor '+'", where=repr(name[:80]))
    return name


def key_id_of(name: str, signature_type: int, public_key: bytes) -> bytes:
    """Return the four bytes that identify a key and its algorithm."""
    return sha256(name.encode() + bytes((0x0A, signature_type)) + public_key).digest()[
        :KEY_ID_BYTES
    ]


def parse_note(text: str, *, where: str) -> SignedNote:
    """Return the parts of a note. No signature is checked.

    where: the file, for errors. Raise BadInput if the text is no signed note.
    """

    def refused(why: str) -> BadInput:
        return BadInput(f"this is no signed note: {why}", where=where)

    if len(text) > _MAX_BYTES:
        raise refused(f"it is longer than {_MAX_BYTES} characters")
    if any(ord(char) < 0x20 and char != "\n" for char in text):
        raise refused("it holds a control character")
    body, separator, lines = text.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise refused("a blank line and signatures must follow its text")
    signatures = []
    for line in lines[:-1].split("\n"):
        name, space, payload = line.removeprefix(_SIGNATURE_START).partition(" ")
        if not line.startswith(_SIGNATURE_START) or not space:
            raise refused("a line under its text is no signature")
        data = decode_base64(payload, where=where)
        if len(data) <= KEY_ID_BYTES:
            raise refused("a signature is too short")
        if not is_key_name(name):
            raise refused("a signature's line names no key")
        signatures.append(NoteSignature(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:]))
    if len(signatures) > _MAX_SIGNATURES:
        raise refused(f"it has more than {_MAX_SIGNATURES} signatures")
    return SignedNote(body + "\n", tuple(signatures))


def verified_signatures(
    note: SignedNote, verifiers: Sequence[NoteVerifier]
) -> tuple[NoteSignature, ...]:
    """Return the signatures of known keys, all valid. The result may be empty.

    Signatures of unknown keys are ignored. Raise ForgedNote if one of a known key isn't valid.
    """
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    verified = []
    for signature in note.signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is None:
            continue
        if not verifier.is_valid(note.text, signature.signature):
            raise ForgedNote(signature.name)
        verified.append(signature)
    return tuple(verified)


class ForgedNote(Exception):
    """A signature names a known key, and that key didn't make it. name: of the key."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def decode_number(text: str) -> int | None:
    """Return a number in its one decimal form: no sign, and no zeros before it. None for others."""
    if not (text.isascii() and text.isdecimal()):
        return None
    try:
        number = int(text)
    except ValueError:  # so many digits that Python refuses them
        return None
    return number if str(number) == text else None


def decode_base64(text: str, *, where: str) -> bytes:
    """Return the bytes of standard base64, RFC 4648 section 4. Raise BadInput for any other text.

    There is one encoding of each value: bits that mean nothing must be zero.
    """
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"'{text[:60]}' is no base64", where=where) from error
    if b64encode(data).decode() != text:
        raise BadInput(f"'{text[:60]}' is no base64 in its one form", where=where)
    return data
