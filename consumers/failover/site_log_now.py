"""The log of one volume as one site would read it now, complete through its commands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.changed.mirrored import ASKER, unanswered
from mirrorlog.consumers.mirrored_log import mirrored_log
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.source_questions import SourceQuestions
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.heads import complete_through
from mirrorlog.tracking_log.keys import missed_log
from mirrorlog.tracking_log.site_log import SiteLog

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class SiteLogNow:
    """log: complete through position `through`."""

    log: SiteLog
    through: int


def read_site_log(
    settings: Settings, volume: Volume, site: str, clock: Clock, patience_s: float
) -> SiteLogNow:
    """Read the log until it is complete through the commands that there are now.

    A mirror of the log is read as far as its source proves it, through the commands that there are
    at the source. Raise KafkaFailed if it isn't within `patience_s`: no node runs, or it is far
    behind.
    """
    client, topics = settings.kafka_client(), settings.topics
    with ExitStack() as opened:
        admin = KafkaAdmin(client)
        opened.callback(admin.close)
        reader = KafkaReader(client)
        opened.callback(reader.close)
        if not settings.kafka_mirror_of:
            needed = admin.end_position(topics.commands, volume.partition) - 1
            log = LogReader(reader, admin, topics.changelog, [volume.partition], site=site)
            return _read(log, volume, site, lambda: needed, clock, patience_s)
        publisher = KafkaPublisher(client)
        opened.callback(publisher.close)
        log, questions = mirrored_log(
            site, settings, admin, publisher, clock, reader, [volume.partition], asker=ASKER
        )
        return read_mirrored_log(log, questions, volume, site, clock, patience_s)


def read_mirrored_log(
    log: LogReader,
    questions: SourceQuestions,
    volume: Volume,
    site: str,
    clock: Clock,
    patience_s: float,
) -> SiteLogNow:
    """Read a mirror of the log until it is proved through the commands that the source has now.

    log: reads the volume's partition, and puts these questions. Raise KafkaFailed.
    """
    first, end = questions.next_number, list[int]()

    def needed() -> int | None:
        answered = questions.answered(volume.partition)
        if not end and answered is not None and answered.answer.number >= first:
            end.append(answered.answer.end - 1)
        questions.want(volume.partition)
        return end[0] if end else None

    try:
        return _read(log, volume, site, needed, clock, patience_s)
    except KafkaFailed:
        if end:
            raise
        raise unanswered(volume, questions, patience_s) from None


def _read(
    log: LogReader,
    volume: Volume,
    site: str,
    needed: Callable[[], int | None],
    clock: Clock,
    patience_s: float,
) -> SiteLogNow:
    """Read until the log is complete through needed(), which is None until it is known."""
    names = (volume.volume, missed_log(volume.volume, site))
    until_s = clock.monotonic_s() + patience_s
    while True:
        end = needed()
        log.poll(_POLL_S, lambda record: record.volume in names)
        through = complete_through(log.watermarks.get(volume.partition), volume)
        through = max(through, volume.origin_position)
        if log.caught_up() and end is not None and through >= end:
            own, missed = (log.logs[name] for name in names)
            return SiteLogNow(SiteLog(own, missed, site), through)
        if clock.monotonic_s() > until_s:
            raise KafkaFailed(
                f"the log is complete through position {through}, and commands through "
                f"{'an unknown one' if end is None else end} wait for the node",
                where=f"volume {volume.volume}",
                next="Start a node (`mirrorlog node`) where it reaches the broker, then repeat "
                "this. It needs nothing of the machine that is lost.",
            )
