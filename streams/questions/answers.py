"""Answers: the parts that answer questions, put together for one worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.log_questions import LogQuestion
from mirrorlog.ports.clock import Clock
from mirrorlog.streams.partitions.partition_loops import BatchProcessor
from mirrorlog.streams.questions.answering_folder import (
    AnsweredTable,
    AnsweringFolder,
    AskedCommands,
)
from mirrorlog.streams.questions.open_questions import OpenQuestions
from mirrorlog.streams.questions.question_reader import QuestionReader, QuestionTopics
from mirrorlog.streams.questions.table_census import TableCensus


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """What answers are made from. census: it follows what is written to the table."""

    census: TableCensus
    table: AnsweredTable
    source: AskedCommands
    clock: Clock


class Answers:
    """The folder that answers, and the service that reads questions.

    wake: lets the loop of a partition look for work soon.
    """

    def __init__(
        self,
        topics: QuestionTopics,
        inner: BatchProcessor,
        parts: AnswerParts,
        wake: Callable[[int], None],
    ) -> None:
        self._questions: Final = OpenQuestions()
        self._wake: Final = wake
        self.folder: Final = AnsweringFolder(
            inner, self._questions, parts.census, parts.table, parts.source, parts.clock
        )
        self.reader: Final = QuestionReader(topics, self.take, parts.clock)

    def take(self, question: LogQuestion) -> None:
        """Take a question that was read, and let the partitions that it is about answer."""
        for partition in self._questions.take(question):
            self._wake(partition)
