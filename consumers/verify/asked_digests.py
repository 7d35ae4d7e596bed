"""Compares a secondary with its primary by digests that `mirrorlog host digest` computes there.

It asks as a verification does, and takes only the answers for the primary. The digests are those of
BLAKE2b: who carried a seed had its bytes in hand, and nobody can make other bytes with equal
digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from mirrorlog.consumers.verify.digest_topics import answer_in, publish_event, read_from_now
from mirrorlog.consumers.verify.range_digests import digests_of
from mirrorlog.domain.verifications import (
    DIGEST_BYTES,
    MAX_QUESTION_BYTES,
    MAX_RANGES,
    ByteRange,
    DigestAlgorithm,
    DigestQuestion,
    PrimaryReader,
    Side,
)
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner

_POLL_S: Final = 0.2
_PATIENCE_S: Final = 20.0
_SILENCE_S: Final = 60.0
"""If nobody has answered, nobody is asked for this time: the site's other volumes don't wait."""
_ALGORITHM: Final = DigestAlgorithm.BLAKE2B_128


@dataclass(slots=True, kw_only=True)
class AskedDigests:
    """A PrimaryComparison of the site `site`. One thread uses it.

    reader: of the topic `topic` of digests, for this object alone. tasks: hashes the secondary.
    """

    site: str
    reader: TopicReader
    admin: TopicAdmin
    publisher: Publisher
    topic: str
    clock: Clock
    tasks: TaskRunner = field(default_factory=OneAtATime)
    draw_id: Callable[[], str] = lambda: str(uuid4())
    _silences: dict[str, tuple[float, DeviceFailed]] = field(default_factory=dict)

    def differing(
        self,
        volume: Volume,
        secondary: BlockDevice,
        ranges: Sequence[tuple[int, int]],
        *,
        on_wait: Callable[[], None],
    ) -> Sequence[bool]:
        """Do as PrimaryComparison.differing says.

        The secondary is hashed while the primary is. Both were read after the call began, so equal
        digests say that both held the same bytes when the later one was read, or that the log names
        what the primary changed since then.
        """
        until_s, last = self._silences.get(volume.volume, (0.0, None))
        if last is not None and self.clock.monotonic_s() < until_s:
            raise last
        asked = [ByteRange(offset, length) for offset, length in ranges]
        read_from_now(self.reader, self.admin, self.topic)
        questions = {self._ask(volume, part): part for part in _parts(asked)}
        held = digests_of(secondary, asked, _ALGORITHM, self.tasks)
        answers = self._wait(volume, questions, on_wait)
        there = b"".join(answers[question] for question in questions)
        return [
            there[start : start + DIGEST_BYTES] != held[start : start + DIGEST_BYTES]
            for start in range(0, len(held), DIGEST_BYTES)
        ]

    def _ask(self, volume: Volume, ranges: Sequence[ByteRange]) -> str:
        """Publish a question; return its id."""
        question = DigestQuestion(
            question=self.draw_id(),
            volume=volume.volume,
            generation=volume.generation,
            site=self.site,
            algorithm=_ALGORITHM,
            primary_reader=PrimaryReader.HOST,
            ranges=tuple(ranges),
        )
        publish_event(self.publisher, self.topic, question)
        return question.question

    def _wait(
        self,
        volume: Volume,
        questions: Mapping[str, Sequence[ByteRange]],
        on_wait: Callable[[], None],
    ) -> Mapping[str, bytes]:
        """Return the digests of the primary, by question. Raise DeviceFailed if there are none."""
        answers: dict[str, bytes] = {}
        heard_at_s = self.clock.monotonic_s()
        while len(answers) < len(questions):
            for message in self.reader.poll(_POLL_S):
                answer = answer_in(message)
                if answer is None or answer.side is not Side.PRIMARY:
                    continue
                if answer.question not in questions:
                    continue
                if answer.digests is None:
                    raise self._silence(volume, f"{answer.by} says: {answer.reason}")
                if len(answer.digests) == len(questions[answer.question]) * DIGEST_BYTES:
                    answers[answer.question] = answer.digests
                    heard_at_s = self.clock.monotonic_s()
            if self.clock.monotonic_s() - heard_at_s > _PATIENCE_S:
                raise self._silence(volume, f"no answer within {_PATIENCE_S:g} s")
            on_wait()
        return answers

    def _silence(self, volume: Volume, why: str) -> DeviceFailed:
        """Return the error, which counts for the volume for a while."""
        error = DeviceFailed(
            f"the primary's digests are missing: {why}",
            where=f"volume {volume.volume} at {self.site}",
            next=f"Run `mirrorlog host digest {volume.volume}` where the primary is, by this "
            "release. Without --primary-reader host, the site reads the primary itself.",
        )
        self._silences[volume.volume] = self.clock.monotonic_s() + _SILENCE_S, error
        return error


def _parts(ranges: Sequence[ByteRange]) -> list[list[ByteRange]]:
    """Return the ranges in parts that one question may name."""
    parts: list[list[ByteRange]] = [[]]
    size_bytes = 0
    for extent in ranges:
        is_full = len(parts[-1]) == MAX_RANGES or size_bytes + extent.length > MAX_QUESTION_BYTES
        if is_full and parts[-1]:
            parts.append([])
            size_bytes = 0
        parts[-1].append(extent)
        size_bytes += extent.length
    return parts
