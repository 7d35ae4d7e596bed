"""Questions are bounded in number, and what has been begun goes on."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from threading import Event

import pytest
from deadlines import DEADLINE_S
from logs import Log
from notation import command, volume

from mirrorlog.changed.points import AtPosition
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.codec.events import encode
from mirrorlog.consumers.dashboard.request_points import AskedSpan
from mirrorlog.consumers.dashboard.volume_answers import MAX_QUESTIONS, VolumeAnswers
from mirrorlog.errors import KafkaFailed, NodeUnavailable, OutOfRetention, UnknownVolume

OTHER_GENERATION = "99999999-9999-4999-8999-999999999999"
SPAN = AskedSpan(since=AtPosition(1), until=AtPosition(2))


def test_a_download_goes_on_while_as_many_questions_are_answered_as_may_be() -> None:
    released = Event()

    def held() -> AbstractContextManager[QueryPorts]:
        assert released.wait(DEADLINE_S)
        raise KafkaFailed("no broker answers")

    async def run() -> None:
        answers = VolumeAnswers(held)
        asked = [asyncio.create_task(answers.changed("v", SPAN)) for _ in range(MAX_QUESTIONS)]
        await asyncio.sleep(0)
        with pytest.raises(NodeUnavailable, match="4 questions are being answered"):
            await answers.changed("v", SPAN)
        chunk = asyncio.create_task(answers.run(lambda: "a chunk"))
        await asyncio.sleep(0)
        released.set()
        assert await chunk == "a chunk"
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(end) for end in ends} == {KafkaFailed}
        answers.close()

    asyncio.run(run())


def test_a_volume_made_anew_under_the_same_name_gets_no_answer_of_the_former_one() -> None:
    log = Log([volume()])
    log.publish([command("0+4096", sequence=number) for number in range(4)])
    log.flush(4)

    async def run() -> None:
        answers = VolumeAnswers(lambda: nullcontext(log.ports()))
        first = await answers.changed("v", SPAN)
        assert await answers.changed("v", SPAN) is first
        anew = volume(generation=OTHER_GENERATION, origin_position=4)
        log.broker.append(log.topics.volumes, 0, b"v", encode(anew))
        with pytest.raises(OutOfRetention):
            await answers.changed("v", SPAN)
        log.broker.append(log.topics.volumes, 0, b"v", None)
        with pytest.raises(UnknownVolume):
            await answers.changed("v", SPAN)
        answers.close()

    asyncio.run(run())
