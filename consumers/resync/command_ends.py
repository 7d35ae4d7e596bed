"""Where the commands end, as a site asks: of its cluster, or of the source of a mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.commands_now import commands_now
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.reading.source_questions import SourceQuestions
from mirrorlog.tracking_log.breaks import CommandsNow


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """Where the commands of a partition ended.

    end: it was asked for at `asked_at_us` or later, by the site's clock.
    """

    end: int
    asked_at_us: int


class CommandEnds(Protocol):
    """Says where the commands end. Every question is put at a moment, and answered later."""

    def ask(self, partition: int) -> int:
        """Ask where the partition's commands end now. Return the question's number."""

    def answer(self, partition: int, number: int) -> CommandEnd | None:
        """Return the answer to that question, or to a later one; None while there is none."""

    def latest(self, partition: int) -> CommandEnd | None:
        """Return a recent answer, without waiting, and see to it that the next one is newer.

        Return None if nobody answers.
        """

    def commands_now(self, partition: int, position: int) -> CommandsNow | None:
        """Return the partition's bounds, and the digest of the command at `position`.

        It was asked after the log was read as far as it counts. None while it isn't known.
        """

    def proof(self, partition: int) -> int | None:
        """Return the number of the question whose answer proved the log of a mirror.

        None if the log is no mirror: what counts of it is proved by its end.
        """

    def stall_reason(self, partition: int) -> str | None:
        """Return why no answer comes; None if it does, or may come."""

    def age_s(self) -> float | None:
        """Return for how long the log that was read may lack something, now that it was read.

        None: it isn't known.
        """


class OwnCommandEnds:
    """Asks the site's own cluster, which answers at once.

    ask_soon: returns where a partition's commands end, soon; None if Kafka doesn't answer.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topic: str,
        clock: Clock,
        patience_s: float,
        ask_soon: Callable[[int], int | None],
    ) -> None:
        self._open_reader: Final = open_reader
        self._admin: Final = admin
        self._topic: Final = topic
        self._clock: Final = clock
        self._patience: Final = ReadPatience(
            clock, patience_s, "reading the command at a saved position"
        )
        self._ask_soon: Final = ask_soon
        self._number = 0
        self._answers: Final[dict[int, tuple[int, CommandEnd]]] = {}

    def ask(self, partition: int) -> int:
        """Ask, and wait for the answer. Raise KafkaFailed if there is none."""
        asked_at_us = self._clock.now_us()
        end = self._admin.end_position(self._topic, partition)
        self._number += 1
        self._answers[partition] = (self._number, CommandEnd(end, asked_at_us))
        return self._number

    def answer(self, partition: int, number: int) -> CommandEnd | None:
        """Return the last answer."""
        known, end = self._answers.get(partition, (0, None))
        return end if known >= number else None

    def latest(self, partition: int) -> CommandEnd | None:
        """Ask, and wait a little for the answer."""
        asked_at_us = self._clock.now_us()
        end = self._ask_soon(partition)
        return None if end is None else CommandEnd(end, asked_at_us)

    def commands_now(self, partition: int, position: int) -> CommandsNow | None:
        """Ask, and wait for the answer. Raise KafkaFailed if there is none."""
        return commands_now(
            self._open_reader, self._admin, self._topic, partition, position, self._patience
        )

    def proof(self, partition: int) -> int | None:
        """Return None: the log is no mirror."""
        del partition
        return None

    def stall_reason(self, partition: int) -> str | None:
        """Return None: Kafka answers at once, or an error says that it doesn't."""
        del partition
        return None

    def age_s(self) -> float | None:
        """Return 0: the log was read to its end."""
        return 0.0


class MirroredCommandEnds:
    """Asks the node of the source, which answers in the log."""

    def __init__(self, questions: SourceQuestions) -> None:
        self._questions: Final = questions

    def ask(self, partition: int) -> int:
        """Ask with the next question."""
        self._questions.want(partition)
        return self._questions.next_number

    def answer(self, partition: int, number: int) -> CommandEnd | None:
        """Return the last answer if its question has this number, or a higher one."""
        answered = self._questions.answered(partition)
        if answered is None or answered.answer.number < number:
            return None
        return CommandEnd(answered.answer.end, answered.asked_at_us)

    def latest(self, partition: int) -> CommandEnd | None:
        """Return the last answer, and ask again."""
        self._questions.want(partition)
        answered = self._questions.answered(partition)
        if answered is None or self.stall_reason(partition) is not None:
            return None
        return CommandEnd(answered.answer.end, answered.asked_at_us)

    def commands_now(self, partition: int, position: int) -> CommandsNow | None:
        """Return what the last answer says of the position; ask if it doesn't."""
        answered = self._questions.answered(partition)
        if answered is None or position not in (-1, answered.answer.position):
            self._questions.want_anchor(partition, position)
            return None
        answer = answered.answer
        return CommandsNow(
            topic=answer.topic, first_kept=answer.first_kept, end=answer.end, anchor=answer.anchor
        )

    def proof(self, partition: int) -> int | None:
        """Return the number of the last question whose answer proved the log; 0 before it."""
        answered = self._questions.answered(partition)
        return 0 if answered is None else answered.answer.number

    def stall_reason(self, partition: int) -> str | None:
        """Return which way of the mirror seems to stand still; None if none does."""
        return self._questions.stall_reason(partition)

    def age_s(self) -> float | None:
        """Return the time since the oldest of the last questions whose answers proved the log."""
        return self._questions.age_s()
