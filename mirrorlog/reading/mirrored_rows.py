"""MirroredRows: holds what was read of a mirrored log against the node's answers.

What a mirror holds is a part of the log of the source: it may lag, repeat rows after a restart, and
lack what compaction took before the mirror read it. So the end of the mirror proves nothing. An
answer proves what lies before it if two things are equal to what the node said: the watermark, and
the last value of every head. The heads name where each chain of records ends, so a record that is
missing is a hole, which the reader of a volume finds (docs/decisions/mirrored-logs.md).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.histories import NO_EPOCH
from mirrorlog.domain.log_questions import LogAnswer
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.ports.streams import Message
from mirrorlog.reading.source_questions import Answered, SourceQuestions
from mirrorlog.tracking_log.head_census import HeadCensus
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import answer_key


class MirroredRows:
    """The heads of each partition as the mirror has them, and the questions about them."""

    def __init__(self, questions: SourceQuestions) -> None:
        self.questions: Final = questions
        self._own_key: Final = answer_key(questions.asker)
        self._censuses: Final[dict[int, HeadCensus]] = defaultdict(HeadCensus)

    def note_row(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Note a row that is no answer. It counts only with an answer to a later question."""
        self._censuses[partition].note(key, value)
        self.questions.note_row(partition, is_news=True)

    def take_answer(
        self, message: Message, watermark: Watermark | None, *, is_cut_off: bool
    ) -> bool:
        """Take an answer. Return whether it proves what was read of the partition before.

        watermark: the last one by its order among what was read. is_cut_off: a head was read that
        no watermark has reached. Raise BadInput if the answer is damaged.
        """
        self.questions.note_row(message.partition, is_news=False)
        if message.value is None or message.key != self._own_key:
            return False
        answer = decode(message.value, LogAnswer)
        if not self.questions.is_awaited(answer):
            return False
        mismatch = self._mismatch(answer, watermark)
        if mismatch is None and is_cut_off:
            mismatch = (
                f"a worker of the node ended in the middle of a flush of partition "
                f"{answer.partition}: the next one repeats it"
            )
        self.questions.take(answer, mismatch)
        return mismatch is None

    def leave(self, partition: int) -> None:
        """Forget a partition that is read no more, and ask nothing more about it."""
        self._censuses.pop(partition, None)
        self.questions.leave(partition)

    def answered(self, partition: int) -> Answered | None:
        """Return the last answer that proves what was read; None before the first."""
        return self.questions.answered(partition)

    def _mismatch(self, answer: LogAnswer, watermark: Watermark | None) -> str | None:
        """Return how what was read differs from what the node said; None if it doesn't."""
        order = (NO_EPOCH, BEFORE_FIRST) if watermark is None else watermark.order
        if order != answer.order:
            return (
                f"the log of partition {answer.partition} is complete through position "
                f"{answer.through} at the source, and its mirror here through {order[1]}: rows are "
                "missing in the mirror"
            )
        census = self._censuses[answer.partition]
        if (len(census), census.digest) == (answer.heads, answer.heads_digest):
            return None
        return (
            f"the mirror of the log's partition {answer.partition} has {len(census)} heads, and "
            f"they aren't the {answer.heads} of the source: it doesn't begin where the log does, "
            "or rows are missing"
        )
