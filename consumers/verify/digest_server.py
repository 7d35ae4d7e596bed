"""Answers the questions of verifications: it hashes what is on this machine, or read from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias

from mirrorlog.codec.events import decode
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.consumers.verify.digest_topics import publish_event, read_from_now
from mirrorlog.consumers.verify.range_digests import digests_of
from mirrorlog.domain.verifications import DigestAnswer, DigestQuestion, PrimaryReader, Side
from mirrorlog.errors import BadInput, MirrorlogError, OutOfRetention, UnknownVolume
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner

log = logging.getLogger("mirrorlog.verify")

_FLUSH_S: Final = 30.0
OpenByName: TypeAlias = Callable[[str], BlockDevice]
"""Opens a copy of the volume of that name for reading."""


class AnswersQuestions(Protocol):
    """Hashes what a question is about."""

    def answer(self, question: DigestQuestion) -> Sequence[DigestAnswer]:
        """Return the answers of the sides that this process hashes; none if that isn't its task.

        What fails is an answer, too: it says why.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryDigests:
    """Hashes primaries at their host.

    by: the machine's name. volumes: those whose primaries are hashed here.
    open_primary: opens the primary of a volume for reading; it raises UnknownVolume.
    """

    by: str
    volumes: frozenset[str]
    open_primary: OpenByName
    tasks: TaskRunner = field(default_factory=OneAtATime)

    def answer(self, question: DigestQuestion) -> Sequence[DigestAnswer]:
        """Return the answer for the primary, if the question asks the host of such a volume."""
        is_asked = question.primary_reader == PrimaryReader.HOST
        if not is_asked or question.volume not in self.volumes:
            return []
        return [_hashed(self.by, question, Side.PRIMARY, self.open_primary, self.tasks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDigests:
    """Hashes the secondaries of a site, and primaries as the site reads them.

    load_state: returns what the site has saved of a volume's secondary. It is read before the first
    byte of the secondary is. open_secondary: opens it for reading, and locks nothing. The others
    are as in PrimaryDigests. is_own: returns whether this process of the site works for a volume;
    it raises UnknownVolume. sides: runs the hashing of both sides.
    """

    by: str
    site: str
    open_primary: OpenByName
    open_secondary: OpenByName
    load_state: Callable[[str], SecondaryState | None]
    is_own: Callable[[str], bool] = lambda _: True
    tasks: TaskRunner = field(default_factory=OneAtATime)
    sides: TaskRunner = field(default_factory=OneAtATime)

    def answer(self, question: DigestQuestion) -> Sequence[DigestAnswer]:
        """Return the answers for the secondary and, if the site is asked for it, the primary."""
        if question.site != self.site or not self._is_own(question.volume):
            return []
        calls = [partial(self._secondary, question)]
        if question.primary_reader == PrimaryReader.SITE:
            calls.append(partial(self._primary, question))
        answers: list[DigestAnswer] = []
        self.sides.run(calls, answers.append)
        return answers

    def _is_own(self, volume: str) -> bool:
        try:
            return self.is_own(volume)
        except UnknownVolume:
            return True  # the answer says so

    def _primary(self, question: DigestQuestion) -> DigestAnswer:
        return _hashed(self.by, question, Side.PRIMARY, self.open_primary, self.tasks)

    def _secondary(self, question: DigestQuestion) -> DigestAnswer:
        refused = partial(_refused, self.by, question, Side.SECONDARY)
        try:
            state = self.load_state(question.volume)
        except MirrorlogError as error:
            return refused(str(error))
        if state is None or state.applied_position is None:
            return refused("the secondary's first copy isn't finished, or the site isn't met yet")
        return _hashed(self.by, question, Side.SECONDARY, self.open_secondary, self.tasks, state)


class DigestServer:
    """Reads the questions that are asked from now on, and publishes the answers.

    answering: hashes. topic: of the questions. answer_topic: where the answers go. One thread uses
    it. Raise KafkaFailed if there is no such topic.
    """

    def __init__(
        self,
        answering: AnswersQuestions,
        *,
        reader: TopicReader,
        admin: TopicAdmin,
        publisher: Publisher,
        topic: str,
        answer_topic: str,
    ) -> None:
        self._answering: Final = answering
        self._reader, self._admin, self._publisher = reader, admin, publisher
        self._topic: Final = topic
        self._answer_topic: Final = answer_topic
        admin.partitions(topic)
        read_from_now(reader, admin, topic)

    def serve(self, timeout_s: float) -> None:
        """Answer what is asked; wait up to `timeout_s` for a question. Raise KafkaFailed."""
        try:
            messages = self._reader.poll(timeout_s, max_messages=1)
        except OutOfRetention:
            read_from_now(self._reader, self._admin, self._topic)
            return
        for message in messages:
            with suppress(BadInput):  # an answer, or an event of a newer release
                self._answer(decode(message.value or b"", DigestQuestion))

    def _answer(self, question: DigestQuestion) -> None:
        for answer in self._answering.answer(question):
            publish_event(self._publisher, self._answer_topic, answer)
        self._publisher.flush(_FLUSH_S)


def _hashed(
    by: str,
    question: DigestQuestion,
    side: Side,
    open_device: OpenByName,
    tasks: TaskRunner,
    state: SecondaryState | None = None,
) -> DigestAnswer:
    """Return the answer of one side. state: of a secondary, as it was saved before this call."""
    try:
        with open_device(question.volume) as device:
            digests = digests_of(device, question.ranges, question.algorithm, tasks)
    except (MirrorlogError, OSError, RuntimeError) as error:
        log.warning("hashing the %s of %s failed: %s", side.lower(), question.volume, error)
        return _refused(by, question, side, str(error))
    return DigestAnswer(
        question=question.question,
        volume=question.volume,
        site=question.site,
        side=side,
        by=by,
        digests=digests,
        applied_position=None if state is None else state.applied_position,
        generation=None if state is None else state.generation,
        history_id=None if state is None else state.history_id,
    )


def _refused(by: str, question: DigestQuestion, side: Side, reason: str) -> DigestAnswer:
    return DigestAnswer(
        question=question.question,
        volume=question.volume,
        site=question.site,
        side=side,
        by=by,
        digests=None,
        reason=reason,
    )
