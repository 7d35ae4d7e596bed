"""Questions of readers of a mirrored log, and the node's answers in the log.

Nothing can be asked of a mirror: its offsets are others, and its end says nothing of the source's.
So a reader puts a question, which a mirror brings to the source, and the node answers in the log
(docs/decisions/mirrored-logs.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirrorlog.domain.positions import BEFORE_FIRST


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionQuestion:
    """What is asked about one partition.

    position: the answer is to hold the digest of the command there; BEFORE_FIRST for none.
    repeat_heads: the mirror lacks rows of the source, so all heads, and then the watermark, are to
        be written to the log again.
    """

    partition: int
    position: int = BEFORE_FIRST
    repeat_heads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuestion:
    """A reader of a mirrored log asks the node of the source.

    asker: the name of the site, or of another reader. run: a UUID, new whenever the reader starts.
    number: counts the questions of a run, from 1. at_us: by the reader's clock, for people.
    """

    asker: str
    run: str
    number: int
    partitions: Sequence[PartitionQuestion]
    at_us: int

    @property
    def key(self) -> bytes:
        """The key under which the last question of an asker is kept."""
        return self.asker.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAnswer:
    """The node's answer to a question about one partition, as a row of the partition's log.

    asker, run, number, position: of the question.
    topic: Kafka's id of the commands topic; None for unknown.
    first_kept, end: of the commands, asked after the question was read.
    anchor: the digest of the command at `position`; None if none is kept there.
    epoch, through: of the watermark when the answer was written; NO_EPOCH and BEFORE_FIRST without
        one.
    heads, heads_digest: the heads in the partition's log then (HeadCensus).
    """

    asker: str
    run: str
    number: int
    partition: int
    topic: str | None
    first_kept: int
    end: int
    position: int
    anchor: bytes | None
    epoch: int
    through: int
    heads: int
    heads_digest: int

    @property
    def order(self) -> tuple[int, int]:
        """The order of the watermark (Watermark.order)."""
        return self.epoch, self.through
