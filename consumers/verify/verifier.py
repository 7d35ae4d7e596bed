"""Verifies one secondary: asks both sides for digests, and judges what they answer.

A step of Verifier.step():

1. Take the answers, and read what is new in the log.
2. Where both sides have answered a question, compare the digests. If some differ, ask first where
   the commands topic ends now.
3. Let verification.py judge what differs, as far as the log allows it.
4. Ask further questions, as fast as `rate` allows. Before each, ask where the commands topic ends.
5. Publish a report when one is due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from mirrorlog.consumers.resync.copy_pace import local_minute
from mirrorlog.consumers.resync.copy_rate import RateSchedule, TokenBucket
from mirrorlog.consumers.verify.digest_topics import answer_in, publish_event, read_from_now
from mirrorlog.consumers.verify.verification import DigestPair, Verification
from mirrorlog.consumers.verify.verification_log import VerificationLog
from mirrorlog.domain.verifications import (
    DIGEST_BYTES,
    MAX_NAMED,
    MAX_QUESTION_BYTES,
    ByteRange,
    DigestAlgorithm,
    DigestAnswer,
    DigestQuestion,
    PrimaryReader,
    Side,
    VerificationReport,
    VerificationState,
)
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.topics import Topics

_MAX_OPEN: Final = 3
"""How many questions are open at a time: both sides hash while answers travel."""
_FIRST_BYTES: Final = 4 << 20
_FAST_S, _SLOW_S = 0.5, 2.0
"""Questions grow while answers come faster than that, and shrink while they come slower."""
_REPORT_S: Final = 5.0


class VerificationAborted(MirrorlogError):
    """A verification was cut short: it says nothing of the ranges that weren't reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What is verified, and how.

    patience_s: how long a range may stay unproved, and a side without an answer.
    """

    volume: Volume
    site: str
    algorithm: DigestAlgorithm = DigestAlgorithm.XXH3_128
    primary_reader: PrimaryReader = PrimaryReader.SITE
    range_bytes: int = 1 << 20
    rate: RateSchedule = field(default_factory=RateSchedule)
    patience_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierPorts:
    """The ports that a verification needs. reader: of the digests topic, for the verifier alone."""

    reader: TopicReader
    admin: TopicAdmin
    publisher: Publisher
    log: VerificationLog
    topics: Topics
    clock: Clock
    draw_id: Callable[[], str] = lambda: str(uuid4())
    minute_of: Callable[[int], int] = local_minute


@dataclass(slots=True)
class _Open:
    """A question whose answers aren't complete. end_before: as in DigestPair."""

    ranges: list[ByteRange]
    size_bytes: int
    asked_at_s: float
    end_before: int
    had_open_fork: bool
    answers: dict[Side, DigestAnswer] = field(default_factory=dict)


class Verifier:
    """One run of a verification. One thread uses it.

    earlier: the report of a run that was cut short, where this one goes on.
    Raise KafkaFailed if the cluster lacks the topic of digests.
    """

    def __init__(
        self,
        options: VerifyOptions,
        ports: VerifierPorts,
        earlier: VerificationReport | None = None,
    ) -> None:
        self._options, self._ports = options, ports
        volume, now_us = options.volume, ports.clock.now_us()
        start, again = resume_point(earlier)
        self.verification: Final = Verification(
            size_bytes=volume.size_bytes,
            block_size=volume.block_size,
            range_bytes=options.range_bytes,
            patience_s=options.patience_s,
            start=start,
            again=again,
        )
        self._id = ports.draw_id() if earlier is None else earlier.verification
        self._started_at_us = now_us if earlier is None else earlier.started_at_us
        self._runs = 1 if earlier is None else earlier.runs + 1
        self._open: dict[str, _Open] = {}
        self._question_bytes = _FIRST_BYTES
        self._bucket: Final = TokenBucket()
        self._heard_at_s: dict[Side, float] = dict.fromkeys(Side, ports.clock.monotonic_s())
        self._refusals: dict[Side, str] = {}
        self._reported_at_s = float("-inf")
        self._read_topics: Final[set[str]] = set()
        ports.admin.partitions(ports.topics.digests)
        self._read_answers()

    def _read_answers(self) -> None:
        """Read answers from now on, also from topics that a mirror has made since the last call.

        Raise KafkaFailed: which topics there are isn't guessed.
        """
        topics, ports = self._ports.topics, self._ports
        missing = {topics.digests, *topics.mirrored_answers} - self._read_topics
        if not missing:
            return
        for topic in sorted(missing & ports.admin.names("")):
            read_from_now(ports.reader, ports.admin, topic)
            self._read_topics.add(topic)

    @property
    def is_over(self) -> bool:
        """Whether each range is confirmed, different or skipped."""
        return self.verification.is_over

    def step(self, timeout_s: float) -> None:
        """Take one step, as the top of this file says. Wait up to `timeout_s` for answers.

        Raise VerificationAborted if a side doesn't answer, or the volume's history ended; and
        KafkaFailed, OutOfRetention and BadInput as the readers do.
        """
        self._take_answers(timeout_s)
        self._ports.log.poll(0)
        self._check_history()
        for name, asked in list(self._open.items()):
            if len(asked.answers) == len(Side):
                del self._open[name]
                self._compare(asked)
        self._ask_lost_ones_again()
        self.verification.judge(self._ports.log, self._now_s())
        if self._ports.log.is_ready:
            self._ask()
        if self._now_s() - self._reported_at_s >= _REPORT_S:
            self.publish(VerificationState.RUNNING)

    def publish(self, state: VerificationState, reason: str | None = None) -> VerificationReport:
        """Publish a report, and return it. reason: why the run was cut short."""
        report = self.report(state, reason)
        publish_event(self._ports.publisher, self._ports.topics.verifications, report)
        self._reported_at_s = self._now_s()
        return report

    def report(self, state: VerificationState, reason: str | None = None) -> VerificationReport:
        """Return the report as of now."""
        options, findings = self._options, self.verification.findings
        different = self.verification.different_ranges()
        skipped = [findings.skipped[offset] for offset in sorted(findings.skipped)]
        pending = self.verification.unfinished()
        return VerificationReport(
            verification=self._id,
            site=options.site,
            volume=options.volume.volume,
            generation=options.volume.generation,
            state=state,
            algorithm=options.algorithm,
            primary_reader=options.primary_reader,
            size_bytes=self.verification.size_bytes,
            range_bytes=self.verification.range_bytes,
            started_at_us=self._started_at_us,
            at_us=self._ports.clock.now_us(),
            runs=self._runs,
            reached_bytes=self.verification.reached(different, skipped, pending),
            confirmed_bytes=findings.confirmed_bytes,
            hashed_again=findings.hashed_again,
            different_blocks=len(findings.different),
            different=tuple(different[:MAX_NAMED]),
            skipped_bytes=findings.skipped_bytes,
            skipped=tuple(skipped[:MAX_NAMED]),
            pending=tuple(pending[:MAX_NAMED]),
            repaired_blocks=findings.repaired_blocks,
            reason=reason or findings.skip_reason,
        )

    def _now_s(self) -> float:
        return self._ports.clock.monotonic_s()

    # Answers

    def _take_answers(self, timeout_s: float) -> None:
        for message in self._ports.reader.poll(timeout_s):
            answer = answer_in(message)
            if answer is not None:
                self._take(answer)

    def _take(self, answer: DigestAnswer) -> None:
        asked = self._open.get(answer.question)
        if asked is None:
            return
        if answer.digests is None:
            self._refusals[answer.side] = f"{answer.by}: {answer.reason}"
            self._give_back(answer.question)
            return
        if len(answer.digests) != len(asked.ranges) * DIGEST_BYTES:
            return
        self._heard_at_s[answer.side] = self._now_s()
        self._refusals.pop(answer.side, None)
        asked.answers.setdefault(answer.side, answer)

    def _compare(self, asked: _Open) -> None:
        took_s = self._now_s() - asked.asked_at_s
        if took_s < _FAST_S:
            self._question_bytes = min(self._question_bytes * 2, MAX_QUESTION_BYTES)
        elif took_s > _SLOW_S:
            self._question_bytes = max(self._question_bytes // 2, self._options.range_bytes)
        primary, secondary = (asked.answers[side] for side in (Side.PRIMARY, Side.SECONDARY))
        assert primary.digests is not None
        assert secondary.digests is not None
        if secondary.applied_position is None or not self._is_of_this_history(secondary):
            self._refusals[Side.SECONDARY] = "the site's saved state is of another history"
            self.verification.give_back(asked.ranges, self._now_s())
            return
        pair = DigestPair(
            primary=primary.digests,
            secondary=secondary.digests,
            applied_position=secondary.applied_position,
            end_before=asked.end_before,
            end_after=self._end() if primary.digests != secondary.digests else asked.end_before,
            had_open_fork=asked.had_open_fork,
        )
        self.verification.compare(asked.ranges, pair, self._now_s())

    def _is_of_this_history(self, answer: DigestAnswer) -> bool:
        known, now = answer.history_id, self._ports.log.history_id
        is_same = known is None or now is None or known == now
        return is_same and answer.generation == self._options.volume.generation

    def _check_history(self) -> None:
        """Raise VerificationAborted if the log is that of another history.

        A promotion gives the volume a new generation, and goes on with its log.
        """
        generation, volume = self._ports.log.generation, self._options.volume
        if self._ports.log.is_ready and generation not in (None, volume.generation_of_log):
            raise VerificationAborted(
                f"the volume's history ended: its generation is {generation} now",
                where=f"volume {volume.volume} at {self._options.site}",
                next="Wait until the site has copied everything, then verify again.",
            )

    def _give_back(self, question: str) -> None:
        asked = self._open.pop(question)
        self.verification.give_back(asked.ranges, self._now_s())

    def _ask_lost_ones_again(self) -> None:
        """Give back what wasn't answered. Raise VerificationAborted if a side is silent."""
        now_s, patience_s = self._now_s(), self._options.patience_s
        late = [n for n, asked in self._open.items() if now_s - asked.asked_at_s > patience_s / 2]
        if late:
            self._read_answers()
        for name in late:
            self._question_bytes = self._options.range_bytes
            self._give_back(name)
        for side in Side:
            waits = bool(self._open or late or side in self._refusals)
            if not waits:
                self._heard_at_s[side] = now_s
            elif now_s - self._heard_at_s[side] > patience_s:
                raise self._silence(side)

    def _silence(self, side: Side) -> VerificationAborted:
        options = self._options
        at_host = side is Side.PRIMARY and options.primary_reader is PrimaryReader.HOST
        who = "`mirrorlog host digest`" if at_host else f"the site {options.site}"
        why = self._refusals.get(side)
        what = f"{who} has sent no digest of the {side.lower()} for {options.patience_s:g} s"
        return VerificationAborted(
            what if why is None else f"{what}: {why}",
            where=f"volume {options.volume.volume} at {options.site}",
            next=f"See that {who} runs, by this release, and can read it. Then verify with "
            "--continue.",
        )

    # Questions

    def _ask(self) -> None:
        while len(self._open) < _MAX_OPEN and self._may_ask():
            now_s = self._now_s()
            ranges = self.verification.take_ranges(now_s, self._most_bytes())
            if not ranges:
                return
            size_bytes = sum(extent.length for extent in ranges)
            self._bucket.take(size_bytes)
            end = self._end()
            name = self._ports.draw_id()
            self._open[name] = _Open(
                ranges, size_bytes, now_s, end, self._ports.log.may_have_open_fork(end)
            )
            self._publish_question(name, ranges)

    def _publish_question(self, name: str, ranges: list[ByteRange]) -> None:
        options, volume = self._options, self._options.volume
        question = DigestQuestion(
            question=name,
            volume=volume.volume,
            generation=volume.generation,
            site=options.site,
            algorithm=options.algorithm,
            primary_reader=options.primary_reader,
            ranges=tuple(ranges),
        )
        publish_event(self._ports.publisher, self._ports.topics.digests, question)

    def _rate_bytes_s(self) -> int | None:
        if self._options.rate.is_unlimited:
            return None
        minute = self._ports.minute_of(self._ports.clock.now_us())
        return self._options.rate.rate_at(minute).limit_bytes_s

    def _may_ask(self) -> bool:
        return self._bucket.wait_s(self._now_s(), self._rate_bytes_s()) <= 0

    def _most_bytes(self) -> int:
        rate = self._rate_bytes_s()
        return self._question_bytes if rate is None else min(self._question_bytes, max(rate, 1))

    def _end(self) -> int:
        return self._ports.admin.end_position(
            self._ports.topics.commands, self._options.volume.partition
        )


def resume_point(earlier: VerificationReport | None) -> tuple[int, list[ByteRange]]:
    """Return the offset where a run goes on, and the ranges below it that are to be hashed."""
    if earlier is None:
        return 0, []
    lists = (*earlier.different, *earlier.skipped, *earlier.pending)
    return earlier.reached_bytes, sorted(
        {extent for extent in lists if extent.end <= earlier.reached_bytes}
    )
