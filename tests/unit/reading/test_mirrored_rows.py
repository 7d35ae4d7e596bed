"""What counts of a mirrored log: what an answer to the reader's own last question proves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import record

from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion
from mirrorlog.errors import WrongCluster
from mirrorlog.reading.clusters import NamedCluster
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.mirrored_rows import MirroredRows
from mirrorlog.reading.source_questions import AGAIN_S, EVERY_S, STALLED_S, SourceQuestions
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import TopicSpec
from mirrorlog.tracking_log.head_census import HeadCensus
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import answer_key, head_key, record_key, watermark_key

TOPIC = "log"
HISTORY = History(cluster="source", topic="t", epoch=1, id="h")


class Mirror:
    """A mirror of one partition, and what the node at the source would say of it.

    put(): a row arrives, in the notation `W4` (watermark), `H4` (head), `0..4` (record). The source
    has the same rows, except for those that are put with lost().
    """

    def __init__(self) -> None:
        self.broker, self.clock = MemoryBroker("mirror"), ManualClock()
        self.broker.create([TopicSpec(TOPIC, {})], 1)
        self.asked: list[LogQuestion] = []
        self.census, self.through = HeadCensus(), -1
        self.questions = SourceQuestions("berlin", "run", self.asked.append, self.clock)
        self.log = LogReader(
            self.broker.reader(), self.broker, TOPIC,
            mirrored=MirroredRows(self.questions), cluster=NamedCluster("source"),
        )  # fmt: skip
        self.poll()

    def row(self, text: str) -> tuple[bytes, bytes]:
        if text.startswith("W"):
            mark = Watermark(partition=0, through=int(text[1:]), at_us=0, history=HISTORY)
            return watermark_key(0), encode(mark)
        if text.startswith("H"):
            return head_key("v"), encode(VolumeHead("v", "g", through=int(text[1:]), epoch=1))
        row = replace(record(text, "1"), generation="g")
        return record_key(row), encode(row)

    def lost(self, *texts: str) -> None:
        for text in texts:
            key, value = self.row(text)
            self.census.note(key, value)
            if text.startswith("W"):
                self.through = int(text[1:])

    def repeat(self, *texts: str) -> None:
        for text in texts:
            self.broker.append(TOPIC, 0, *self.row(text))

    def put(self, *texts: str) -> None:
        self.lost(*texts)
        self.repeat(*texts)

    def answer(self, number: int | None = None, end: int = 100) -> LogAnswer:
        answer = LogAnswer(
            asker="berlin",
            run="run",
            number=self.asked[-1].number if number is None else number,
            partition=0,
            topic="t",
            first_kept=0,
            end=end,
            position=-1,
            anchor=None,
            epoch=0 if self.through < 0 else 1,
            through=self.through,
            heads=len(self.census),
            heads_digest=self.census.digest,
        )
        self.broker.append(TOPIC, 0, answer_key("berlin"), encode(answer))
        return answer

    def poll(self) -> set[str]:
        self.clock.now_s += EVERY_S
        return self.log.poll(0)

    def counted(self) -> tuple[int | None, int | None]:
        """Return the watermark and the head that count."""
        self.poll()
        mark, head = self.log.watermarks.get(0), self.log.logs["v"].head
        return mark and mark.through, head and head.through


def test_the_end_of_a_mirror_proves_nothing_and_an_answer_does() -> None:
    mirror = Mirror()
    mirror.put("-1..4", "H4", "W4")
    assert mirror.counted() == (None, None)
    assert not mirror.log.caught_up()
    mirror.answer()
    mirror.put("4..9", "H9", "W9")
    assert mirror.counted() == (4, 4), "what follows the answer waits for the next one"
    assert mirror.log.caught_up()
    assert mirror.asked[-1].number == 2
    mirror.answer()
    assert mirror.counted() == (9, 9)


def test_old_rows_and_old_answers_come_again_and_nothing_goes_back() -> None:
    mirror = Mirror()
    mirror.put("-1..4", "H4", "W4", "4..9", "H9", "W9")
    first = mirror.answer()
    assert mirror.counted() == (9, 9)
    mirror.repeat("-1..4", "H4", "W4")
    mirror.answer(first.number)
    assert mirror.counted() == (9, 9)
    mirror.answer()
    assert mirror.counted() == (9, 9)
    assert mirror.questions.answered(0) is not None
    assert mirror.questions.answered(0).answer.number == first.number, "the repeat runs"  # type: ignore[union-attr]
    mirror.repeat("4..9", "H9", "W9")
    mirror.put("9..12", "H12", "W12")
    mirror.poll()
    mirror.answer()
    assert mirror.counted() == (12, 12)


@pytest.mark.parametrize(
    ("before", "lost"),
    [((), ("-1..4", "H4")), (("-1..4", "H4", "W4"), ("4..9", "H9", "W9"))],
    ids=["it begins late", "it passed rows over"],
)
def test_a_mirror_that_lacks_rows_never_counts_and_the_heads_are_asked_for(
    before: tuple[str, ...], lost: tuple[str, ...]
) -> None:
    mirror = Mirror()
    mirror.put(*before)
    mirror.lost(*lost)
    mirror.put("W12")
    for _ in range(3):
        mirror.poll()
        mirror.answer()
        assert mirror.counted() == (None, None)
    assert "heads" in (mirror.questions.stall_reason(0) or "")
    assert mirror.asked[-1].partitions[0].repeat_heads
    mirror.repeat(lost[1], "W12")
    mirror.answer()
    assert mirror.counted()[0] == 12
    hole = mirror.log.logs["v"].hole(after=-1, through=12)
    assert hole is not None, "the records are still missing"
    assert mirror.questions.stall_reason(0) is None


def test_a_head_that_no_watermark_has_reached_lets_nothing_count() -> None:
    mirror = Mirror()
    mirror.put("-1..4", "H4", "W4", "H9")
    mirror.answer()
    assert mirror.counted() == (None, None)
    mirror.put("W9")
    mirror.poll()
    mirror.answer()
    assert mirror.counted() == (9, 9)


def test_questions_are_put_again_and_the_reason_names_the_way_that_stands_still() -> None:
    mirror = Mirror()
    assert [question.number for question in mirror.asked] == [1]
    for _ in range(4):
        mirror.poll()
    assert len(mirror.asked) == 1, "a question waits for its answer"
    mirror.clock.now_s += AGAIN_S
    mirror.poll()
    assert [question.number for question in mirror.asked] == [1, 2]
    mirror.put("W4")
    mirror.clock.now_s += STALLED_S
    mirror.poll()
    assert "or the node doesn't read it" in (mirror.questions.stall_reason(0) or "")
    quiet = Mirror()
    quiet.clock.now_s += STALLED_S
    assert "nothing arrives of the log" in (quiet.questions.stall_reason(0) or "")


def test_a_way_that_takes_longer_than_a_question_waits_gets_on_all_the_same() -> None:
    mirror = Mirror()
    mirror.put("-1..4", "H4", "W4")
    for number in range(1, 5):
        mirror.clock.now_s += AGAIN_S
        mirror.poll()
        assert mirror.asked[-1].number == number + 1, "it is put again before the answer comes"
        mirror.answer(number)
        assert mirror.counted() == (4, 4)
        answered = mirror.questions.answered(0)
        assert answered is not None and answered.answer.number == number
        assert mirror.questions.stall_reason(0) is None


def test_the_answers_to_others_cause_no_question() -> None:
    mirror = Mirror()
    assert mirror.questions.age_s() is None
    mirror.answer()
    mirror.poll()
    other = replace(mirror.answer(), asker="paris")
    mirror.broker.append(TOPIC, 0, answer_key("paris"), encode(other))
    mirror.poll()
    assert len(mirror.asked) == 1
    for _ in range(2):
        mirror.poll()
    assert len(mirror.asked) == 2, "a reader that has all asks whether it still has"
    assert mirror.questions.age_s() is not None


def test_the_log_of_a_third_cluster_is_refused() -> None:
    mirror = Mirror()
    mark = Watermark(partition=0, through=4, at_us=0, history=replace(HISTORY, cluster="third"))
    mirror.broker.append(TOPIC, 0, watermark_key(0), encode(mark))
    with pytest.raises(WrongCluster, match="a mirror of cluster source"):
        mirror.poll()


def test_a_partition_that_is_left_is_asked_about_no_more_until_it_is_read_again() -> None:
    mirror = Mirror()
    mirror.put("-1..4", "H4", "W4")
    mirror.answer()
    assert mirror.counted() == (4, 4)
    mirror.log.leave_partition(0)
    asked = len(mirror.asked)
    for _ in range(int(2 * AGAIN_S / EVERY_S)):
        mirror.poll()
    assert len(mirror.asked) == asked
    assert mirror.questions.age_s() is None
    mirror.log.follow_partition(0)
    assert mirror.counted() == (None, None)
    assert not mirror.log.caught_up()
    mirror.answer()
    assert mirror.counted() == (4, 4)
    assert mirror.log.caught_up()
