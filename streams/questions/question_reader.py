"""QuestionReader: reads the questions that mirrors bring from the clusters of sites."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.log_questions import LogQuestion
from mirrorlog.domain.retry_reports import RetryReports
from mirrorlog.errors import BadInput, MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.topics import Topics

log = logging.getLogger("mirrorlog.node")

_POLL_S: Final = 0.5
_RETRY_S: Final = 5.0
_PARTITION: Final = 0


@dataclass(frozen=True, slots=True)
class QuestionTopics:
    """The topics that hold questions, each with one partition.

    open_reader: opens a reader that has these topics from their beginning on. Raise KafkaFailed if
        one of them doesn't exist yet. The call blocks.
    """

    names: Sequence[str]
    open_reader: Callable[[], TopicReader]


def question_topics(
    topics: Topics, admin: TopicAdmin, open_client: Callable[[], TopicReader]
) -> QuestionTopics | None:
    """Return where the questions of mirrored sites arrive; None if there are no such sites."""
    names = topics.mirrored_questions
    if not names:
        return None

    def open_reader() -> TopicReader:
        for name in names:
            admin.partitions(name)  # its error says what to do if there is no such topic
        reader = open_client()
        for name in names:
            reader.assign(name, {_PARTITION: None})
        return reader

    return QuestionTopics(names, open_reader)


class QuestionReader:
    """Reads questions for as long as the worker runs (engine.EngineService).

    on_question: called on the event loop with each question. An error here never ends the worker: a
    site whose questions aren't answered claims nothing new.
    """

    def __init__(
        self, topics: QuestionTopics, on_question: Callable[[LogQuestion], None], clock: Clock
    ) -> None:
        self._topics: Final = topics
        self._on_question: Final = on_question
        self._clock: Final = clock
        self._reports: Final = RetryReports()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._run(), name="mirrorlog-questions")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        doing = f"reading the questions of mirrored sites ({', '.join(self._topics.names)})"
        # One thread: it never closes a reader that polls, even if the task is cancelled meanwhile.
        thread = ThreadPoolExecutor(1, "mirrorlog-questions")
        loop = asyncio.get_running_loop()
        while True:
            reader: TopicReader | None = None
            try:
                reader = await loop.run_in_executor(thread, self._topics.open_reader)
                while True:
                    for message in await loop.run_in_executor(thread, reader.poll, _POLL_S):
                        self._take(message)
                    if text := self._reports.worked(doing, now_s=self._clock.monotonic_s()):
                        log.warning("%s %s", doing, text)
            except MirrorlogError as error:
                now_s = self._clock.monotonic_s()
                if text := self._reports.failed(doing, str(error), now_s=now_s):
                    log.warning("%s: %s", doing, text)
            finally:
                if reader is not None:
                    thread.submit(reader.close)
            await asyncio.sleep(_RETRY_S)

    def _take(self, message: Message) -> None:
        question = read_question(message)
        if question is not None:
            self._on_question(question)


def read_question(message: Message) -> LogQuestion | None:
    """Return the question in a message; None, and a line in the log, if there is none."""
    if message.value is None:
        return None
    try:
        return decode(message.value, LogQuestion)
    except BadInput as error:
        log.error("a question of a mirrored site can't be read: %s (%s)", error, message.topic)
        return None
