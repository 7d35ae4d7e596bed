"""The history of a partition: within it, a position means the same command for ever. Pure.

A position is an offset. A topic that is deleted and created again, or a broker that goes back in
time, gives the same offset to another command. So a position counts only together with the history
in which it was taken (docs/decisions/histories.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

NO_EPOCH: Final = 0
"""The epoch of rows that name no history: an older mirrorlog wrote them."""
ANCHOR_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The identity of a partition's history.

    cluster: the id of the Kafka cluster; None if it isn't known.
    topic: Kafka's id of the commands topic; None if it isn't known. It changes if the topic is
        deleted and created again.
    epoch: from 1; each renewal adds one or more. It orders the histories of a partition.
    id: a canonical UUID, new with each renewal.
    """

    cluster: str | None
    topic: str | None
    epoch: int
    id: str


def epoch_of(history: History | None) -> int:
    """Return the history's epoch, NO_EPOCH for None."""
    return NO_EPOCH if history is None else history.epoch


def anchor_of(key: bytes | None, value: bytes | None) -> bytes:
    """Return the digest of a command's message: ANCHOR_BYTES bytes of BLAKE2b (RFC 7693).

    A position together with the digest of the message there is an anchor: if another message is
    found at the position, the position was used again. The message's time isn't part of the digest,
    because the fold doesn't read it. The key and the value suffice: a command names its session,
    its sequence number and its times.
    """
    digest = blake2b(digest_size=ANCHOR_BYTES)
    for part in (key, value):
        # None and the empty string differ, and no byte can move from one part to the next.
        digest.update(b"\xff" * 8 if part is None else len(part).to_bytes(8, "big"))
        digest.update(part or b"")
    return digest.digest()
