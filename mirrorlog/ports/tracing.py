"""The port to traces: what each role did with a command, and when.

A command's position identifies it for every role. So its trace and span have ids that each role
computes from the position, and nothing about traces is on the wire (docs/decisions/traces.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Final, Protocol

MAX_LINKS: Final = 128
"""The links that a span has by default (OTEL_SPAN_LINK_COUNT_LIMIT of OpenTelemetry)."""


@dataclass(frozen=True, slots=True)
class SpanIds:
    """The ids of a span: 16 and 8 bytes as numbers, neither of them 0."""

    trace_id: int
    span_id: int


def command_ids(topic: str, *, partition: int, position: int) -> SpanIds:
    """Return the ids of the span of the command at this position of the commands topic.

    They are the first 24 bytes of the SHA-256 of `topic/partition/position`. A topic that is made
    again repeats them: they are for people, never a proof.
    """
    digest = sha256(f"{topic}/{partition}/{position}".encode()).digest()
    return SpanIds(
        int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1
    )


def latest_ids(topic: str, *, partition: int, positions: Sequence[int]) -> list[SpanIds]:
    """Return the ids of the commands at these ascending positions: of the last MAX_LINKS."""
    return [
        command_ids(topic, partition=partition, position=position)
        for position in islice(positions, max(len(positions) - MAX_LINKS, 0), None)
    ]


class Tracer(Protocol):
    """Takes spans. It never waits, and raises nothing."""

    def record(
        self,
        name: str,
        *,
        began_us: int,
        ended_us: int,
        attributes: Mapping[str, str | int],
        ids: SpanIds | None = None,
        links: Sequence[SpanIds] = (),
    ) -> None:
        """Take a span that has ended.

        began_us, ended_us: microseconds since 1970. ids: its ids; None for new ones.
        links: the commands that it did something with.
        """
        ...
