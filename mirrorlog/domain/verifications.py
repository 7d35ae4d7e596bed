"""A verification: a primary and a secondary are hashed where they are, and digests are compared.

Questions and answers travel on the topic `mirrorlog.digests`, reports on `mirrorlog.verifications`.
docs/decisions/verification.md says why a difference that is found is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import check_volume_name
from mirrorlog.errors import BadUse

DIGEST_BYTES: Final = 16
"""Bytes of a digest, whatever its algorithm."""
MAX_RANGES: Final = 1024
"""The most ranges that one question names."""
MAX_QUESTION_BYTES: Final = 64 << 20
"""The most bytes that are hashed for one question, unless a single range is larger."""
MAX_NAMED: Final = 4096
"""The most ranges of a kind that a report names. It counts them all."""


class Side(StrEnum):
    """One of the two copies that are compared."""

    PRIMARY = "PRIMARY"
    SECONDARY = "SECONDARY"


class PrimaryReader(StrEnum):
    """Who hashes the primary: the site, which reads it by its address, or a process at the host."""

    SITE = "SITE"
    HOST = "HOST"


class DigestAlgorithm(StrEnum):
    """How a range becomes a digest of DIGEST_BYTES bytes.

    XXH3_128: fast, and it finds every accident. BLAKE2B_128: nobody can make a change that it
    doesn't find.
    """

    XXH3_128 = "XXH3_128"
    BLAKE2B_128 = "BLAKE2B_128"


class ByteRange(NamedTuple):
    """The bytes [offset, offset + length)."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestQuestion:
    """Ask both sides for the digest of each range.

    question: a UUID, which the answers name.
    algorithm: the name of a DigestAlgorithm; a newer release may name another one.
    primary_reader: the name of a PrimaryReader.

    Raise ValueError for ranges that are empty, negative or too many.
    """

    question: str
    volume: str
    generation: str
    site: str
    algorithm: str
    primary_reader: str
    ranges: tuple[ByteRange, ...]

    def __post_init__(self) -> None:
        check_site_name(self.site)
        check_volume_name(self.volume)
        UUID(self.question)
        if not 0 < len(self.ranges) <= MAX_RANGES:
            raise ValueError(f"a question with {len(self.ranges)} ranges")
        if any(extent.offset < 0 or extent.length < 1 for extent in self.ranges):
            raise ValueError("a question with an empty range, or with a negative offset")


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestAnswer:
    """The answer of one side to a question.

    by: the machine that answers, for people.
    digests: one of DIGEST_BYTES for each range of the question; None if it can't be answered now,
        for the reason `reason`.
    applied_position, generation, history_id: of a secondary only: what its site had saved before
        the first byte was read. All that the log names up to the position was copied by then.
    """

    question: str
    volume: str
    site: str
    side: Side
    by: str
    digests: bytes | None
    reason: str | None = None
    applied_position: int | None = None
    generation: str | None = None
    history_id: str | None = None

    def __post_init__(self) -> None:
        if (self.digests is None) == (self.reason is None):
            raise ValueError("an answer has digests, or a reason why it has none")


class VerificationState(StrEnum):
    """How far a verification came."""

    UNKNOWN = "UNKNOWN"  # what an older reader sees of a state that it doesn't know
    RUNNING = "RUNNING"  # or its process died without a word: see the age of the report
    ABORTED = "ABORTED"  # it was cut short, and `reason` says by what
    FINISHED = "FINISHED"  # each range was confirmed, or differs, or was skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """The last report of the verification of one secondary.

    verification: a UUID; a run that goes on where another one ended keeps it. runs: how many runs
        it took.
    size_bytes, range_bytes: of the volume, and of the ranges that were hashed.
    started_at_us, at_us: when the first run began, and when this was true, by the clock of the
        process that verifies.
    reached_bytes: each byte below it was confirmed, or lies in one of the lists.
    confirmed_bytes: what was equal at both sides.
    hashed_again: how often a range differed and the log named it, so that it was hashed again.
    different_blocks, different: blocks that differ though the log names no change of them; the
        first MAX_NAMED ranges of them.
    skipped_bytes, skipped: what could not be judged, and the first MAX_NAMED ranges of it.
    pending: ranges below reached_bytes that weren't judged yet when this was reported.
    repaired_blocks: of the different blocks, those that were marked dirty and are equal now.
    reason: why it was aborted, or why ranges were skipped.
    """

    verification: str
    site: str
    volume: str
    generation: str
    state: VerificationState
    algorithm: str
    primary_reader: str
    size_bytes: int
    range_bytes: int
    started_at_us: int
    at_us: int
    runs: int = 1
    reached_bytes: int = 0
    confirmed_bytes: int = 0
    hashed_again: int = 0
    different_blocks: int = 0
    different: tuple[ByteRange, ...] = ()
    skipped_bytes: int = 0
    skipped: tuple[ByteRange, ...] = ()
    pending: tuple[ByteRange, ...] = ()
    repaired_blocks: int = 0
    reason: str | None = None

    @property
    def is_equal(self) -> bool:
        """Return whether every byte of the volume was confirmed, and nothing else was found."""
        return (
            self.state is VerificationState.FINISHED
            and self.different_blocks == 0
            and self.confirmed_bytes == self.size_bytes
        )

    @property
    def result(self) -> str:
        """The result in words. Only a verification that confirmed every byte says "equal"."""
        if self.is_equal:
            return "equal"
        parts = []
        if self.state is not VerificationState.FINISHED:
            share = self.confirmed_bytes / self.size_bytes if self.size_bytes else 0.0
            confirmed = f"{int(share * 1000) / 10:g} % confirmed"
            word = "running" if self.state is VerificationState.RUNNING else "cut short"
            parts.append(f"{word}, {confirmed}")
        if self.different_blocks:
            repaired = f", {self.repaired_blocks} repaired" if self.repaired_blocks else ""
            blocks = (
                "1 block differs"
                if self.different_blocks == 1
                else (f"{self.different_blocks} blocks differ")
            )
            parts.append(blocks + repaired)
        if self.skipped_bytes:
            parts.append(f"{self.skipped_bytes} bytes skipped")
        return ", ".join(parts) or "nothing is proved"


def parse_algorithm(name: str) -> DigestAlgorithm:
    """Return the algorithm of that name, in any case and with "-" for "_". Raise BadUse."""
    try:
        return DigestAlgorithm(name.upper().replace("-", "_"))
    except ValueError:
        raise BadUse(
            f"'{name[:40]}' isn't an algorithm for digests",
            next=f"Choose one of {', '.join(DigestAlgorithm)}.",
        ) from None
