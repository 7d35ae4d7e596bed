"""SourceQuestions: the questions that one reader of a mirrored log puts to the node of the source.

A question says nothing by its time: what counts is that it was put after something was read, and
that its answer was read (docs/decisions/mirrored-logs.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion, PartitionQuestion
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher

EVERY_S: Final = 0.5
"""The shortest time between two questions."""
IDLE_S: Final = 1.0
"""A question is put this long after the last answer, although nothing was read: so the reader knows
that it has all there is."""
AGAIN_S: Final = 10.0
"""The time after which a question that wasn't answered is put again."""
STALLED_S: Final = 15.0
"""A mirror counts as standing still after so long without an answer."""
_DOUBTS: Final = 3
"""So many answers in a row that don't fit what was read, and the heads are asked for."""
_DOUBT_S: Final = 5.0
"""The time between two questions after that."""
_PARTITION: Final = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that proves what was read of a partition.

    asked_at_us, asked_at_s: when it was asked for, in microseconds since 1970 and by the monotonic
    clock.
    """

    answer: LogAnswer
    asked_at_us: int
    asked_at_s: float


@dataclass(slots=True)
class _Asked:
    """The state of one partition.

    number: of the last question that waits for its answer; 0: none. at_s: when it was put.
    answered_at_s: when a question was answered last. put_at: when the questions after that one were
        put, by number, in microseconds since 1970 and by the monotonic clock.
    is_wanted: a further question is wanted. position: of the command that it is to ask for.
    since_s: since when no question was answered, although one was put; None if none is awaited.
    row_at_s: when a row of the log arrived last.
    not_before_s: when the next question may be put.
    mismatches: answers in a row that didn't fit. mismatch: why the last one didn't.
    """

    number: int = 0
    at_s: float = 0.0
    answered_at_s: float = 0.0
    put_at: dict[int, tuple[int, float]] = field(default_factory=dict)
    is_wanted: bool = True
    position: int = BEFORE_FIRST
    since_s: float | None = None
    row_at_s: float | None = None
    not_before_s: float = 0.0
    mismatches: int = 0
    mismatch: str | None = None
    last: Answered | None = None


class SourceQuestions:
    """Puts questions, and knows which were answered. One thread calls it.

    publish: publishes a question to this cluster, from where a mirror takes it to the source.
    """

    def __init__(self, asker: str, run: str, publish: Callable[[LogQuestion], None], clock: Clock):
        self.asker: Final = asker
        self._run: Final = run
        self._publish: Final = publish
        self._clock: Final = clock
        self._number = 0
        self._put_at_s = float("-inf")
        self._partitions: Final[dict[int, _Asked]] = {}

    @property
    def next_number(self) -> int:
        """The number of the next question. Its answer says what is true after this moment."""
        return self._number + 1

    def follow(self, partition: int) -> None:
        """Ask about this partition, too."""
        self._partitions.setdefault(partition, _Asked())

    def leave(self, partition: int) -> None:
        """Ask about this partition no more. Its answers that are on their way don't count."""
        self._partitions.pop(partition, None)

    def want(self, partition: int) -> None:
        """Put a question about the partition as soon as the one that waits is answered."""
        self._partitions[partition].is_wanted = True

    def want_anchor(self, partition: int, position: int) -> None:
        """Let the next question ask for the command at a position, too."""
        asked = self._partitions[partition]
        asked.is_wanted, asked.position = True, position

    def note_row(self, partition: int, *, is_news: bool) -> None:
        """Note that a row of the log arrived. is_news: it counts only after a further answer."""
        asked = self._partitions[partition]
        asked.row_at_s = self._clock.monotonic_s()
        asked.is_wanted = asked.is_wanted or is_news

    def is_awaited(self, answer: LogAnswer) -> bool:
        """Return whether the answer is to a question of this run, and newer than the last one.

        Others came again. A way that takes longer than AGAIN_S has several questions on it.
        """
        asked = self._partitions.get(answer.partition)
        return (
            asked is not None
            and (answer.asker, answer.run) == (self.asker, self._run)
            and answer.number in asked.put_at
        )

    def take(self, answer: LogAnswer, mismatch: str | None) -> None:
        """Take the awaited answer. mismatch: why it doesn't prove what was read; None if it does.

        Without a proof, the next question is put soon.
        """
        asked = self._partitions[answer.partition]
        put_us, put_s = asked.put_at[answer.number]
        asked.put_at = {
            number: put for number, put in asked.put_at.items() if number > answer.number
        }
        asked.since_s = asked.answered_at_s = self._clock.monotonic_s()
        if answer.number >= asked.number:
            asked.number, asked.since_s = 0, None
        asked.mismatch = mismatch
        if asked.position == answer.position:
            asked.position = BEFORE_FIRST
        if mismatch is None:
            asked.mismatches = 0
            asked.last = Answered(answer, put_us, put_s)
        else:
            asked.mismatches += 1
            asked.is_wanted = True
            if asked.mismatches > _DOUBTS:
                asked.not_before_s = self._clock.monotonic_s() + _DOUBT_S

    def answered(self, partition: int) -> Answered | None:
        """Return the last answer that proves what was read; None before the first."""
        asked = self._partitions.get(partition)
        return None if asked is None else asked.last

    def age_s(self) -> float | None:
        """Return for how long the reader may lack something that the log at the source holds.

        None: it has never had all.
        """
        last = [asked.last for asked in self._partitions.values()]
        if not last or None in last:
            return None
        oldest_s = min(answered.asked_at_s for answered in last if answered is not None)
        return self._clock.monotonic_s() - oldest_s

    def put_due(self) -> None:
        """Put a question if one is wanted, and if the last one isn't too young."""
        now_s = self._clock.monotonic_s()
        if now_s - self._put_at_s < EVERY_S:
            return
        due = {
            partition: asked
            for partition, asked in self._partitions.items()
            if (not asked.number and now_s >= self._next_at_s(asked))
            or (asked.number and now_s - asked.at_s >= AGAIN_S)
        }
        if not due:
            return
        self._number += 1
        self._put_at_s, at_us = now_s, self._clock.now_us()
        parts = [
            PartitionQuestion(
                partition=partition,
                position=asked.position,
                repeat_heads=asked.mismatches >= _DOUBTS,
            )
            for partition, asked in due.items()
        ]
        for asked in due.values():
            asked.number, asked.at_s, asked.is_wanted = self._number, now_s, False
            asked.put_at[self._number] = (at_us, now_s)
            asked.since_s = now_s if asked.since_s is None else asked.since_s
        self._publish(
            LogQuestion(
                asker=self.asker,
                run=self._run,
                number=self._number,
                partitions=parts,
                at_us=at_us,
            )
        )

    def _next_at_s(self, asked: _Asked) -> float:
        """Return when the next question may be put, once none waits for its answer."""
        idle_s = 0.0 if asked.is_wanted else asked.answered_at_s + IDLE_S
        return max(asked.not_before_s, idle_s)

    def stall_reason(self, partition: int) -> str | None:
        """Return what seems to stand still between here and the source; None if nothing does."""
        asked = self._partitions.get(partition)
        if asked is None:
            return None
        if asked.mismatches >= _DOUBTS:
            return asked.mismatch
        now_s = self._clock.monotonic_s()
        if asked.since_s is None or now_s - asked.since_s < STALLED_S:
            return None
        waited = f"no answer from the source for {now_s - asked.since_s:.0f} s"
        if asked.row_at_s is not None and asked.row_at_s > asked.since_s:
            return (
                f"{waited}, although the log arrives: the mirror of `questions` to the source "
                "stands still, or the node doesn't read it (kafka_mirrored_sites)"
            )
        return (
            f"{waited}, and nothing arrives of the log: the mirror of the log stands still, or "
            "that of `questions`, or the node"
        )


def question_publisher(publisher: Publisher, topic: str) -> Callable[[LogQuestion], None]:
    """Return a function that publishes questions to `topic` (Topics.questions)."""

    def publish(question: LogQuestion) -> None:
        publisher.publish(topic, _PARTITION, question.key, encode(question))
        publisher.poll(0)

    return publish
