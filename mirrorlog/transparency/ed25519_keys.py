"""Ed25519 keys (RFC 8032) that sign notes and checkpoints. The one file that names cryptography.

A key pair is kept as openssl(1) keeps it: the private key in PEM (PKCS #8), the public key in PEM
(SubjectPublicKeyInfo). Its name isn't in these files: a log's key has the name of the log, its
origin, so one key pair signs the checkpoints of all logs.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from mirrorlog.errors import BadInput
from mirrorlog.transparency.notes import (
    COSIGNATURE_TYPE,
    ED25519_TYPE,
    KEY_ID_BYTES,
    NoteSignature,
    check_key_name,
    decode_base64,
    key_id_of,
)

_TIME_BYTES: Final = 8
_NEXT: Final = "Name a file that `mirrorlog audit keygen` or `openssl genpkey` made."


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key. raw: its 32 bytes."""

    raw: bytes

    @classmethod
    def from_pem(cls, pem: bytes, *, where: str) -> Self:
        """Read a public key. Raise BadInput if the text holds none."""
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise BadInput("this is no public key in PEM", where=where, next=_NEXT) from error
        if not isinstance(key, Ed25519PublicKey):
            raise BadInput("this public key isn't of the kind Ed25519", where=where, next=_NEXT)
        return cls(key.public_bytes_raw())

    def as_pem(self) -> bytes:
        """Return the key as openssl(1) writes it."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether the signature of the message is this key's."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public key under a name: it verifies signatures of notes (notes.NoteVerifier)."""

    name: str
    public: PublicKey

    @property
    def key_id(self) -> bytes:
        """What identifies the key in a signature's line."""
        return key_id_of(self.name, ED25519_TYPE, self.public.raw)

    def is_valid(self, text: str, signature: bytes) -> bool:
        """Return whether the signature of the note's text is this key's."""
        return self.public.has_signed(text.encode(), signature)

    def as_vkey(self) -> str:
        """Return the key in the form in which programs for signed notes take it."""
        return _vkey(self.name, self.key_id, ED25519_TYPE, self.public)


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's public key under its name: it verifies cosignatures (notes.NoteVerifier)."""

    name: str
    public: PublicKey

    @property
    def key_id(self) -> bytes:
        """What identifies the key in a signature's line."""
        return key_id_of(self.name, COSIGNATURE_TYPE, self.public.raw)

    def is_valid(self, text: str, signature: bytes) -> bool:
        """Return whether the signature with its time is this witness's, of a checkpoint's text."""
        if len(signature) <= _TIME_BYTES:
            return False
        message = _cosigned_message(text, cosigned_at_s(signature))
        return self.public.has_signed(message, signature[_TIME_BYTES:])

    def as_vkey(self) -> str:
        """Return the key in the form in which programs for signed notes take it."""
        return _vkey(self.name, self.key_id, COSIGNATURE_TYPE, self.public)


def cosigned_at_s(signature: bytes) -> int:
    """Return when a cosignature was made, in seconds since 1970, by its witness's clock."""
    return int.from_bytes(signature[:_TIME_BYTES], "big")


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An Ed25519 private key. It is never printed."""

    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, *, where: str) -> Self:
        """Read a private key. Raise BadInput if the text holds none, or an encrypted one."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise BadInput(
                "this is no private key in PEM, or one with a passphrase", where=where, next=_NEXT
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadInput("this private key isn't of the kind Ed25519", where=where, next=_NEXT)
        return cls(key)

    def as_pem(self) -> bytes:
        """Return the key as openssl(1) writes it, without a passphrase."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> PublicKey:
        """The public key of the pair."""
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, name: str, text: str) -> NoteSignature:
        """Sign a note's text under a name."""
        key = NoteKey(check_key_name(name), self.public)
        return NoteSignature(name, key.key_id, self._key.sign(text.encode()))

    def cosign(self, name: str, text: str, *, at_s: int) -> NoteSignature:
        """Sign a checkpoint's text as the witness `name`, at a time in seconds since 1970."""
        key = WitnessKey(check_key_name(name), self.public)
        signature = self._key.sign(_cosigned_message(text, at_s))
        return NoteSignature(name, key.key_id, at_s.to_bytes(_TIME_BYTES, "big") + signature)


def parse_vkey(text: str, *, where: str) -> NoteKey | WitnessKey:
    """Return the key that a verifier key names: `<name>+<hex id>+<base64>`. Raise BadInput."""
    name, _, rest = text.strip().partition("+")
    hex_id, plus, encoded = rest.partition("+")
    data = decode_base64(encoded, where=where) if plus else b""
    if len(data) != 33 or data[0] not in (ED25519_TYPE, COSIGNATURE_TYPE):
        raise BadInput("this is no verifier key of an Ed25519 key", where=where)
    kind = NoteKey if data[0] == ED25519_TYPE else WitnessKey
    key = kind(check_key_name(name), PublicKey(data[1:]))
    if key.key_id.hex() != hex_id:
        raise BadInput("the id in this verifier key isn't that of its key", where=where)
    return key


def _vkey(name: str, key_id: bytes, signature_type: int, public: PublicKey) -> str:
    assert len(key_id) == KEY_ID_BYTES
    encoded = b64encode(bytes((signature_type,)) + public.raw).decode()
    return f"{name}+{key_id.hex()}+{encoded}"


def _cosigned_message(text: str, at_s: int) -> bytes:
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()
