"""Who answers which question of a verification, and what keeps answering after a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from unittest.mock import patch

import pytest
from notation import volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.verify import wiring
from mirrorlog.consumers.verify.digest_server import (
    AnswersQuestions,
    DigestServer,
    PrimaryDigests,
    SiteDigests,
)
from mirrorlog.domain.verifications import (
    DIGEST_BYTES,
    ByteRange,
    DigestAnswer,
    DigestQuestion,
    Side,
)
from mirrorlog.errors import DeviceFailed, KafkaFailed, StateDamaged, UnknownVolume
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.topics import Topics

QUESTION = "2f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10"
VOLUME = volume("v")
TOPICS = Topics()


def question(**fields: object) -> DigestQuestion:
    values: dict[str, object] = {
        "question": QUESTION,
        "volume": "v",
        "generation": VOLUME.generation,
        "site": "a",
        "algorithm": "XXH3_128",
        "primary_reader": "SITE",
        "ranges": (ByteRange(0, 4096), ByteRange(4096, 512)),
    }
    return DigestQuestion(**values | fields)  # type: ignore[arg-type]


def open_device(_: str) -> BlockDevice:
    return MemoryDevice(1 << 20)


def site(state: SecondaryState | None, site_name: str = "a") -> SiteDigests:
    return SiteDigests(
        by="m",
        site=site_name,
        open_primary=open_device,
        open_secondary=open_device,
        load_state=lambda name: state,
    )


APPLIED = SecondaryState("v", VOLUME.generation, applied_position=7)
HOST = PrimaryDigests(by="m", volumes=frozenset("v"), open_primary=open_device)


@pytest.mark.parametrize(
    ("answering", "asked", "sides"),
    [
        (site(APPLIED), question(), {Side.PRIMARY, Side.SECONDARY}),
        (site(APPLIED), question(primary_reader="HOST"), {Side.SECONDARY}),
        (site(APPLIED, "b"), question(), set()),
        (HOST, question(), set()),
        (HOST, question(primary_reader="HOST"), {Side.PRIMARY}),
        (HOST, question(primary_reader="HOST", volume="w"), set()),
    ],
)
def test_each_process_answers_for_what_is_its_task(
    answering: AnswersQuestions, asked: DigestQuestion, sides: set[Side]
) -> None:
    answers = answering.answer(asked)
    assert {answer.side for answer in answers} == sides
    for answer in answers:
        assert len(answer.digests or b"") == 2 * DIGEST_BYTES
        assert answer.applied_position == (7 if answer.side is Side.SECONDARY else None)


def test_of_several_workers_the_one_that_has_the_volume_answers() -> None:
    def unknown(name: str) -> bool:
        raise UnknownVolume(f"there is no volume '{name}'")

    own, others = site(None), replace(site(None), is_own=lambda _: False)
    assert len(own.answer(question())) == 2
    assert others.answer(question()) == []
    assert len(replace(others, is_own=unknown).answer(question())) == 2  # they say why


def test_a_secondary_that_nothing_is_known_of_has_no_digests() -> None:
    for state in (None, SecondaryState("v", VOLUME.generation)):
        (secondary,) = site(state).answer(question(primary_reader="HOST"))
        assert secondary.digests is None
        assert "first copy isn't finished" in (secondary.reason or "")


def test_a_failure_and_an_unknown_algorithm_are_answers_with_the_reason() -> None:
    (answer,) = HOST.answer(question(primary_reader="HOST", algorithm="NEWER"))
    assert "'NEWER' isn't an algorithm" in (answer.reason or "")

    def fail(_: object) -> BlockDevice:
        raise DeviceFailed("the disk is gone", where="memory, offset 0")

    broken = PrimaryDigests(by="m", volumes=frozenset("v"), open_primary=fail)
    (answer,) = broken.answer(question(primary_reader="HOST"))
    assert "the disk is gone" in (answer.reason or "")

    def damaged(_: str) -> SecondaryState | None:
        raise StateDamaged("the state is damaged")

    damaged_site = SiteDigests(
        by="m",
        site="a",
        open_primary=open_device,
        open_secondary=open_device,
        load_state=damaged,
    )
    answers = {answer.side: answer for answer in damaged_site.answer(question())}
    assert "the state is damaged" in (answers[Side.SECONDARY].reason or "")
    assert answers[Side.PRIMARY].digests is not None


def test_a_server_answers_what_is_asked_after_its_start_whatever_else_is_on_the_topic() -> None:
    broker, topic = MemoryBroker(), TOPICS.digests
    broker.create(TOPICS.specs(single_copy=True), 1)
    broker.append(topic, 0, b"a/v", encode(question()))
    server = DigestServer(
        site(APPLIED),
        reader=broker.reader(),
        admin=broker,
        publisher=broker.publisher(),
        topic=topic,
        answer_topic=topic,
    )
    broker.append(topic, 0, b"a/v", b"from a newer release")
    broker.append(topic, 0, b"a/v", encode(question(ranges=(ByteRange(0, 512),))))
    for _ in range(3):
        server.serve(0)
    answers = [decode(message.value or b"", DigestAnswer) for message in broker.messages(topic)[3:]]
    assert [len(answer.digests or b"") for answer in answers] == [DIGEST_BYTES] * 2
    broker.trim(topic, 0, broker.end_position(topic, 0))
    broker.rewind(topic, 0, 0)
    server.serve(0)  # the topic was made anew
    broker.append(topic, 0, b"a/v", encode(question()))
    server.serve(0)
    assert broker.end_position(topic, 0) == 3


def test_a_server_that_fails_is_opened_again_and_a_defect_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = Event()
    outcomes = iter([KafkaFailed("there is no such topic"), ZeroDivisionError("defect"), None])

    class Server:
        def serve(self, timeout_s: float) -> None:
            stop.set()

    @contextmanager
    def open_server() -> Iterator[Server]:
        if (error := next(outcomes)) is not None:
            raise error
        yield Server()

    with patch.object(wiring, "_RETRY_S", 0.0), caplog.at_level("INFO"):
        wiring.serve_until(open_server, stop)  # type: ignore[arg-type]
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]
