"""The question who wrote what, asked of Kafka from Python: `audit("vol1", since="2h ago")`.

The command line asks in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from mirrorlog.changed.ask import point_of, query_ports
from mirrorlog.changed.volume_commands import QueryPorts, VolumeCommands
from mirrorlog.consumers.audit.audit_range import (
    AuditRange,
    check_whole,
    hold_against,
    range_between,
)
from mirrorlog.consumers.audit.question import AuditQuestion, RowFilter
from mirrorlog.consumers.audit.statuses import StatusJoin
from mirrorlog.consumers.audit.writes_not_kept import WritesNotKept, writes_not_kept
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.history.archive_history import ArchiveHistory, JoinedHistory
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.source import HistorySource
from mirrorlog.history.topic_history import TopicHistory
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class AuditAnswer:
    """The rows of a volume's history that answer a question. Read them once.

    span: the positions that were asked for, and what of them is missing.
    """

    volume: Volume
    span: AuditRange
    _source: HistorySource = field(repr=False)
    _filter: RowFilter = field(repr=False)
    _statuses: StatusJoin = field(repr=False)
    _lost: Callable[[], WritesNotKept | None] = field(repr=False)

    def writes_not_kept(self) -> WritesNotKept | None:
        """Return how many writes of the volume the missing positions held; None: nobody knows."""
        return self._lost()

    def batches(self, *, with_status: bool = True) -> Iterator[HistoryBatch]:
        """Yield the rows in order, in batches of bounded size.

        with_status: False leaves the status of every row null, and reads no statuses.

        A batch may be empty: its `through` says how far the reading came. Raise OutOfRetention if
        retention takes what isn't read yet, and KafkaFailed.
        """
        for part in self.span.kept:
            for batch in self._source.batches(self.volume, after=part.after, through=part.through):
                chosen = self._filter.chosen(batch)
                yield self._statuses.add_to(chosen) if with_status else chosen


def audit(
    volume: str,
    since: str | int = "origin",
    until: str | int = "now",
    settings: Settings | None = None,
    *,
    blocks: str | None = None,
    hosts: Iterable[str] = (),
    partial: bool = False,
    patience_s: float = 30.0,
) -> Iterator[HistoryBatch]:
    """Yield the rows of a volume's history after the point `since`, through the point `until`.

    since, until: a log position, or a point in words (docs/changed.md). blocks, hosts, partial: as
    in AuditQuestion, which open_audit() takes and which can ask for more. settings: those of
    `MIRRORLOG_*` by default. patience_s: how long Kafka is waited for.

    The batches hold numpy columns (mirrorlog.history.definition); `to_dicts()` makes rows of them.
    Raise BadUse for a point or bytes that don't exist; OutOfRetention if a part of the range isn't
    kept any more, unless `partial`; UnknownVolume; KafkaFailed.
    """
    question = AuditQuestion(
        volume=volume,
        since=point_of(since),
        until=point_of(until),
        blocks=blocks,
        hosts=frozenset(hosts),
        partial=partial,
    )
    given = load_settings() if settings is None else settings
    with open_audit(given, question, patience_s) as answer:
        yield from answer.batches()


@contextmanager
def open_audit(
    settings: Settings, question: AuditQuestion, patience_s: float
) -> Iterator[AuditAnswer]:
    """Open the answer to a question, read from Kafka, and close it. Errors: those of audit()."""
    with query_ports(settings, patience_s) as ports:
        if settings.kafka_mirror_of:
            raise BadUse(
                "a mirror keeps no positions of the commands, so it has no history to audit",
                where=f"volume {question.volume}",
                next="Ask the cluster that it mirrors.",
            )
        yield answer_question(question, ports, patience_s)


def answer_question(
    question: AuditQuestion,
    ports: QueryPorts,
    patience_s: float,
    source: HistorySource | None = None,
) -> AuditAnswer:
    """Return the answer to a question.

    source: what holds the rows. The commands topic by default, and an archive for what the topic no
        longer keeps, if there is one (QueryPorts.archived). Errors: those of audit().
    """
    ports.catalog.refresh()
    volume = ports.catalog.volume_named(question.volume)
    row_filter = question.row_filter(volume)  # before Kafka is asked for anything more
    patience = ReadPatience(
        ports.clock, patience_s, f"reading the history of volume {volume.volume}"
    )
    if source is None:
        source = TopicHistory(ports.open_reader, ports.admin, ports.topics, patience)
        if ports.archived is not None:
            source = JoinedHistory(source, ArchiveHistory(ports.archived))
    commands = VolumeCommands(volume, ports, patience_s)
    asked = range_between(volume, question.since, question.until, commands, ports.topics)
    span = hold_against(asked, source.covered(volume))
    if not question.partial:
        check_whole(span, volume)
    statuses = StatusJoin(_status_reader(volume, ports, patience), volume.volume)
    return AuditAnswer(
        volume,
        span,
        source,
        replace(row_filter, window=asked.window),
        statuses,
        lambda: writes_not_kept(volume, span.missing, ports, patience_s),
    )


def _status_reader(
    volume: Volume, ports: QueryPorts, patience: ReadPatience
) -> Callable[[int | None], Iterator[Message]]:
    """Return what reads the statuses of the volume's partition (StatusJoin)."""
    topic, partition = ports.topics.status, volume.partition

    def messages(appended_us: int | None) -> Iterator[Message]:
        if appended_us is None:
            start, end = None, ports.admin.end_position(topic, partition)
        else:
            start, end = ports.admin.appended_from(topic, partition, appended_us)
        yield from read_range(ports.open_reader, topic, partition, patience, start=start, end=end)

    return messages
