"""The node answers questions in the log, between two flushes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.log_questions import LogAnswer, LogQuestion, PartitionQuestion
from mirrorlog.errors import KafkaFailed
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_engine import MemoryStore
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.questions.answering_folder import AnsweringFolder
from mirrorlog.streams.questions.open_questions import OpenQuestions
from mirrorlog.streams.questions.table_census import TableCensus
from mirrorlog.streams.table.local_store import Row
from mirrorlog.tracking_log.breaks import CommandsNow
from mirrorlog.tracking_log.head_census import HeadCensus
from mirrorlog.tracking_log.heads import VolumeHead, Watermark
from mirrorlog.tracking_log.keys import answer_key, head_key


def question(number: int, *partitions: int, run: str = "r", repeat: bool = False) -> LogQuestion:
    parts = [
        PartitionQuestion(partition=partition, repeat_heads=repeat) for partition in partitions
    ]
    return LogQuestion(asker="berlin", run=run, number=number, partitions=parts, at_us=0)


def test_each_question_is_answered_once_in_each_partition() -> None:
    questions = OpenQuestions()
    assert questions.take(question(1, 0, 1)) == {0, 1}
    assert questions.take(question(2, 0)) == {0}
    (second,) = questions.of(0)
    questions.note_answered(second)
    assert questions.of(0) == []
    assert [asked.question.number for asked in questions.of(1)] == [1]
    assert questions.take(question(1, 0)) == set(), "a mirror repeats it"
    assert questions.take(question(1, 0, run="next")) == {0}


def test_a_newer_question_waits_on_while_one_is_answered() -> None:
    questions = OpenQuestions()
    questions.take(question(1, 0))
    (first,) = questions.of(0)
    questions.take(question(2, 0))
    questions.note_answered(first)
    assert [asked.question.number for asked in questions.of(0)] == [2]


def test_the_census_is_that_of_the_last_values_in_whatever_order() -> None:
    heads = {name: (head_key(name), encode(VolumeHead(name, "g", through=1))) for name in "ab"}
    one, two = HeadCensus(), HeadCensus()
    one.note(*heads["a"])
    one.note(*heads["b"])
    two.note(head_key("a"), b"an older value")
    two.note(*heads["b"])
    two.note(b"other", b"row")
    assert one.digest != two.digest
    two.note(*heads["a"])
    assert (len(one), one.digest) == (len(two), two.digest)
    two.note(head_key("a"), None)
    assert len(two) == 1 and one.digest != two.digest


@dataclass
class Node:
    """An AnsweringFolder over a table in memory. events: what happened, in order."""

    store: MemoryStore = field(default_factory=MemoryStore)
    events: list[str] = field(default_factory=list)
    answers: list[LogAnswer] = field(default_factory=list)
    is_away: bool = False
    has_strangers: bool = False

    def __post_init__(self) -> None:
        self.questions, self.census = OpenQuestions(), TableCensus(self.store)
        self.clock = ManualClock()
        self.folder = AnsweringFolder(self, self.questions, self.census, self, self, self.clock)

    # The commands, the table, and the folder behind

    def commands_now(self, partition: int, position: int) -> CommandsNow:
        if self.is_away:
            raise KafkaFailed("Kafka is away")
        self.events.append("end")
        return CommandsNow(topic="t", first_kept=0, end=7, anchor=None)

    def watermark(self, partition: int) -> Watermark | None:
        return Watermark(partition=partition, through=6, at_us=0)

    async def append(self, partition: int, rows: Sequence[Row]) -> None:
        for key, value in rows:
            is_answer = key == answer_key("berlin")
            self.events.append("answer" if is_answer else "head")
            if is_answer and value is not None:
                self.answers.append(decode(value, LogAnswer))

    async def repeat_watermark(self, partition: int) -> None:
        self.events.append("watermark")

    def take_strangers(self, partition: int) -> bool:
        has_some, self.has_strangers = self.has_strangers, False
        return has_some

    def recorded_end(self, partition: int) -> int:
        return 7

    async def pass_empty(self, partition: int, end: int) -> None:
        self.events.append("pass")

    async def record(self, batch: EventBatch) -> None:
        self.events.append("record")

    async def maintain(self, partition: int) -> float:
        self.events.append("maintain")
        return 1.0

    def run(self) -> list[str]:
        self.events.clear()
        assert asyncio.run(self.folder.maintain(0)) == 1.0
        return list(self.events)


def test_a_question_is_answered_before_the_other_work() -> None:
    node = Node()
    assert node.run() == ["maintain"]
    node.questions.take(question(1, 0, 1))
    assert node.run() == ["end", "answer", "maintain"]
    assert node.run() == ["maintain"]
    (answer,) = node.answers
    assert (answer.number, answer.partition, answer.end, answer.through) == (1, 0, 7, 6)


def test_a_question_waits_while_kafka_is_away() -> None:
    node = Node(is_away=True)
    node.questions.take(question(1, 0))
    assert node.run() == ["maintain"]
    node.is_away = False
    assert node.run() == ["end", "answer", "maintain"]


def test_heads_are_written_again_for_a_mirror_that_lacks_them_but_not_all_the_time() -> None:
    node = Node()
    rows = [(head_key(name), name.encode()) for name in "ab"]
    node.store.write(0, rows, [1, 2])
    node.questions.take(question(1, 0, repeat=True))
    assert node.run() == ["end", "head", "head", "watermark", "answer", "maintain"]
    node.questions.take(question(2, 0, repeat=True))
    assert node.run() == ["end", "answer", "maintain"]
    node.clock.now_s += 60
    node.questions.take(question(3, 0, repeat=True))
    assert "head" in node.run()
    assert {answer.heads for answer in node.answers} == {2}


def test_heads_are_written_again_if_others_wrote_rows_among_this_workers() -> None:
    node = Node(has_strangers=True)
    node.store.write(0, [(head_key("a"), b"a")], [1])
    assert node.run() == ["head", "watermark", "maintain"]
    assert node.run() == ["maintain"]


def test_the_census_follows_the_table_and_forgets_a_partition_that_is_taken_away() -> None:
    node = Node()
    node.store.write(0, [(head_key("a"), b"1")], [1])
    before = node.census.of(0).digest
    node.store.write(0, [(head_key("a"), b"2")], [2])
    assert node.census.of(0).digest == before, "LogTable tells what it writes"
    node.census.note_rows(0, [(head_key("a"), b"2")])
    noted = node.census.of(0).digest
    node.folder.release([0])
    assert node.census.of(0).digest == noted != before
