"""The rows of commands that the archive doesn't hold, from the commands topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.consumers.archive.row_files import dated_tables, messages_by_volume
from mirrorlog.consumers.archive.topic_comparison import TopicComparison
from mirrorlog.consumers.sql.question import SqlQuestion
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import StateDamaged
from mirrorlog.history.command_rows import command_rows
from mirrorlog.history.topic_history import message_parts
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_range


@dataclass(frozen=True, slots=True)
class TopicPorts:
    """What reads the commands topic. archived: what is archived of it; None if nothing is."""

    open_reader: Callable[[], TopicReader]
    admin: TopicAdmin
    topic: str
    patience: ReadPatience
    archived: ArchivedTopic | None


@dataclass(frozen=True, slots=True)
class TopicPart:
    """The positions [start, end) of a partition that are read from the topic.

    archived_through: everything through this position is archived, as far as anything is; -1 if
        nothing is.
    missing: the ranges (after, through] below `end` that neither topic nor archive has, ascending.
    """

    partition: int
    start: int
    end: int
    archived_through: int
    missing: Sequence[tuple[int, int]]


def topic_part(ports: TopicPorts, partition: int) -> TopicPart:
    """Return what is read from the topic: everything behind the end of what is archived.

    Raise StateDamaged if the topic holds another command than the archive at the seam.
    """
    first = ports.admin.first_position(ports.topic, partition)
    end = ports.admin.end_position(ports.topic, partition)
    covered = [] if ports.archived is None else ports.archived.covered(partition)
    if covered:
        _check_seam(ports, partition, first, end)
    through = covered[-1][1] if covered else BEFORE_FIRST
    start = max(first, through + 1)
    kept = [(BEFORE_FIRST, BEFORE_FIRST), *covered, (start - 1, end - 1)]
    missing = [(reached, after) for (_, reached), (after, _) in pairwise(kept) if reached < after]
    return TopicPart(partition, start, end, through, missing)


def _check_seam(ports: TopicPorts, partition: int, first: int, end: int) -> None:
    assert ports.archived is not None
    last = ports.archived.last_message(partition)
    topic = TopicComparison(
        ports.archived.archive, ports.open_reader, ports.admin, ports.topic, ports.patience
    )
    if last is not None and topic.last_is_same(partition, last, first, end) is False:
        raise StateDamaged(
            "the commands topic holds another command than the archive: it went back in time",
            where=f"partition {partition}, position {last.position}",
            next="Let the node renew the history, then run `mirrorlog archive run --once`.",
        )


def topic_tables(
    ports: TopicPorts,
    part: TopicPart,
    volumes: Mapping[str, Volume],
    question: SqlQuestion,
) -> Iterator[Any]:
    """Yield the rows of a part as tables (pyarrow.Table), as files of rows have them."""
    start = part.start
    if question.since_us is not None:
        from_time, _ = ports.admin.appended_from(ports.topic, part.partition, question.since_us)
        start = max(start, from_time)
    messages = read_range(
        ports.open_reader, ports.topic, part.partition, ports.patience, start=start, end=part.end
    )
    with closing(messages):
        for some in message_parts(messages):
            for name, mine in messages_by_volume(some).items():
                volume = volumes.get(name)
                if volume is not None and question.is_wanted(name):
                    batch = command_rows(mine, volume, through=mine[-1].position)
                    yield from dated_tables(batch, volume.epoch)
