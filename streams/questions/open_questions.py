"""OpenQuestions: the questions that wait for an answer, by partition. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from mirrorlog.domain.log_questions import LogQuestion, PartitionQuestion


class OpenQuestion(NamedTuple):
    """A question, and the part of it that is about one partition."""

    question: LogQuestion
    part: PartitionQuestion


class OpenQuestions:
    """Remembers the last question of each run of an asker, until it is answered.

    A mirror may bring questions twice, and old ones again. What was answered isn't answered again,
    except for questions of an earlier run of the asker, whose answers nobody reads.
    """

    def __init__(self) -> None:
        self._open: Final[dict[int, dict[tuple[str, str], OpenQuestion]]] = defaultdict(dict)
        self._answered: Final[dict[tuple[int, str], tuple[str, int]]] = {}

    def take(self, question: LogQuestion) -> set[int]:
        """Take a question that was read. Return the partitions in which it waits now."""
        waiting = set()
        for part in question.partitions:
            run, number = self._answered.get((part.partition, question.asker), ("", 0))
            if run == question.run and number >= question.number:
                continue
            known = self._open[part.partition].get((question.asker, question.run))
            if known is None or known.question.number < question.number:
                self._open[part.partition][question.asker, question.run] = OpenQuestion(
                    question, part
                )
                waiting.add(part.partition)
        return waiting

    def of(self, partition: int) -> list[OpenQuestion]:
        """Return the questions that wait in a partition."""
        return list(self._open[partition].values()) if partition in self._open else []

    def note_answered(self, answered: OpenQuestion) -> None:
        """Note that a question is answered. A newer one of the same run waits on."""
        question, partition = answered.question, answered.part.partition
        key = (question.asker, question.run)
        if self._open[partition].get(key) == answered:
            del self._open[partition][key]
        self._answered[partition, question.asker] = (question.run, question.number)
