"""A message that a flush sends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to one partition (None: any)."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
