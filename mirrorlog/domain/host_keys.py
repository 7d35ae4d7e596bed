"""Keys of hosts, and the authentication codes that tracking commands carry. Pure.

A holder (a machine, or all machines that trust each other) has a key, and the node knows which
volumes each holder may touch. A command carries a code in a header of its message:

    byte 0      the version of the format, 1
    32 bytes    HMAC-SHA256 (RFC 2104, FIPS 198-1) of the input below, with the key's secret
    the rest    the key's id, in UTF-8

The input is the text `mirrorlog command` and the format's version, then the topic, the partition
(4 bytes), the key's id, the message's key and its value. Numbers are big-endian, and each text and
the message's key has its length (4 bytes) in front, so no two messages have one input. The topic
and the partition are in it, because positions that a command names mean another command elsewhere.

A session belongs to a holder by its id alone (`session_of`), so that a heartbeat, which names no
volume, can be judged without a look at any volume.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Final, TypeAlias
from uuid import UUID

from mirrorlog.errors import BadUse

SIGNER_KEY: Final = "mirrorlog.command_signer"
"""Under this name the settings of a Kafka client hold the CommandSigner of what it publishes."""
CODE_HEADER: Final = "mirrorlog-code"
"""The header of a message that holds the code."""
SECRET_BYTES: Final = 32
_FORMAT: Final = 1
_CODE_BYTES: Final = 32
_LABEL: Final = b"mirrorlog command" + bytes([_FORMAT])
_ID: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})/([A-Za-z0-9][A-Za-z0-9._-]{0,39})")
_NONCE_BYTES: Final = 8
_SESSION_LABEL: Final = b"mirrorlog session\x01"
_OWNED_VERSION: Final = 8
_NEXT: Final = "`mirrorlog host keygen HOLDER FILE` makes a key."

Headers: TypeAlias = Iterable[tuple[str, bytes | None]]
"""The headers of a message."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key. id: `HOLDER/NAME`, so that a holder may have several. secret: its bytes."""

    id: str
    secret: bytes = field(repr=False)

    @property
    def holder(self) -> str:
        """Who has the key."""
        return self.id.partition("/")[0]

    def as_text(self) -> str:
        """Return the key as its file holds it: `ID:SECRET`, in Base64 for URLs."""
        return f"{self.id}:{urlsafe_b64encode(self.secret).decode()}"


def parse_host_key(text: str) -> HostKey:
    """Return the key in `ID:SECRET`. Raise BadUse, which doesn't show the secret."""
    id_, _, encoded = text.strip().partition(":")
    if not _ID.fullmatch(id_):
        raise BadUse("a host key begins with HOLDER/NAME and a colon", next=_NEXT)
    try:
        secret = b64decode(encoded.encode(), altchars=b"-_", validate=True)
    except (Base64Error, UnicodeEncodeError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise BadUse(
            f"the secret of host key {id_} isn't {SECRET_BYTES} bytes in Base64", next=_NEXT
        )
    return HostKey(id_, secret)


def command_code(
    key: HostKey, *, topic: str, partition: int, message_key: bytes | None, value: bytes
) -> bytes:
    """Return the code of a message: what CODE_HEADER holds."""
    digest = _digest(key, topic, partition, message_key, value)
    return bytes([_FORMAT]) + digest + key.id.encode()


def _digest(
    key: HostKey, topic: str, partition: int, message_key: bytes | None, value: bytes
) -> bytes:
    name, id_, message_key = topic.encode(), key.id.encode(), message_key or b""
    parts = (
        _LABEL,
        len(name).to_bytes(4, "big"),
        name,
        partition.to_bytes(4, "big"),
        len(id_).to_bytes(4, "big"),
        id_,
        len(message_key).to_bytes(4, "big"),
        message_key,
        value,
    )
    return hmac.digest(key.secret, b"".join(parts), "sha256")


@dataclass(frozen=True, slots=True)
class CommandSigner:
    """Puts codes on the messages of one topic, the commands."""

    topic: str
    key: HostKey

    def headers(
        self, topic: str, partition: int, message_key: bytes | None, value: bytes | None
    ) -> list[tuple[str, bytes]]:
        """Return the headers of a message; none for other topics and tombstones."""
        if topic != self.topic or value is None:
            return []
        code = command_code(
            self.key, topic=topic, partition=partition, message_key=message_key, value=value
        )
        return [(CODE_HEADER, code)]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has keys, and what for. volumes: patterns of names, as a shell has them."""

    name: str
    volumes: tuple[str, ...]

    def may_touch(self, volume: str) -> bool:
        """Return whether commands of the holder count for the volume."""
        return any(fnmatchcase(volume, pattern) for pattern in self.volumes)


@dataclass(frozen=True, slots=True)
class HostKeys:
    """All keys that count, as the node knows them. keys: by id. holders: by name."""

    keys: Mapping[str, HostKey]
    holders: Mapping[str, Holder]

    def holder_of(
        self,
        headers: Headers,
        *,
        topic: str,
        partition: int,
        message_key: bytes | None,
        value: bytes,
    ) -> Holder | str:
        """Return the holder whose key made the code of a message; a text that says what is wrong.

        The text follows "the command" in a sentence.
        """
        code = next((value for name, value in headers if name == CODE_HEADER), None)
        if code is None:
            return "carries no code of a host key"
        if len(code) <= 1 + _CODE_BYTES or code[0] != _FORMAT:
            return "carries a code in a format that this node doesn't know"
        id_ = code[1 + _CODE_BYTES :].decode("utf-8", "replace")[:200]
        key = self.keys.get(id_)
        if key is None:
            return f"carries a code of host key '{id_}', which the node's file of keys doesn't have"
        digest = _digest(key, topic, partition, message_key, value)
        if not hmac.compare_digest(digest, code[1 : 1 + _CODE_BYTES]):
            return (
                f"carries a code that isn't that of host key {id_}: the sender has another secret, "
                "or the bytes were made for another topic or partition"
            )
        return self.holders[key.holder]

    def key_for(self, volume: str, session: str) -> HostKey | None:
        """Return a key with which the node may repeat a command itself; None if there is none.

        session: the command's. A key of the session's holder is preferred.
        """
        allowed = [key for key in self.keys.values() if self.holders[key.holder].may_touch(volume)]
        own = (key for key in allowed if is_session_of(session, key.holder))
        return next(own, allowed[0] if allowed else None)


NO_KEYS: Final = HostKeys({}, {})


def session_of(holder: str, random_bytes: bytes) -> str:
    """Return the id of a new session that belongs to a holder: a UUID of version 8 (RFC 9562).

    random_bytes: eight or more. Of its 122 free bits, 60 are random, and 62 are those of a SHA-256
    of the holder and the random bits.
    """
    nonce = bytearray(random_bytes[:_NONCE_BYTES])
    nonce[6] = (nonce[6] & 0x0F) | (_OWNED_VERSION << 4)
    tag = bytearray(_session_tag(holder, bytes(nonce)))
    tag[0] = (tag[0] & 0x3F) | 0x80
    return str(UUID(bytes=bytes(nonce + tag)))


def is_owned(session: str) -> bool:
    """Return whether the session belongs to a holder of a key."""
    try:
        return UUID(session).version == _OWNED_VERSION
    except ValueError:
        return False


def is_session_of(session: str, holder: str) -> bool:
    """Return whether the session belongs to this holder."""
    return is_owned(session) and session_of(holder, UUID(session).bytes) == session


def _session_tag(holder: str, nonce: bytes) -> bytes:
    return sha256(_SESSION_LABEL + nonce + holder.encode()).digest()[:_NONCE_BYTES]
