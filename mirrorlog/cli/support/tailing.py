"""The events of a topic, or of all topics about one volume: from a point on, the last few, or all.

1. Choose the parts: every partition of a topic; or the partition of the volume in each topic that
   has it.
2. Ask where each part begins and ends, or where the time lies in it. The ends are fixed then.
3. Read the parts to these ends.
4. To follow, read on from these ends with one reader, for ever.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, TypeAlias

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.changed.points import AtEnd, AtOrigin, AtPosition, AtTime, Point
from mirrorlog.cli.support.event_view import volume_of
from mirrorlog.cli.support.lookup import load_volumes, patience_for
from mirrorlog.errors import BadUse
from mirrorlog.ports.streams import Message
from mirrorlog.reading.event_tail import PartRange, Wanted, in_order_of_time, last_of_all
from mirrorlog.reading.read_through import read_range
from mirrorlog.settings import Settings
from mirrorlog.topics import Topics

_FOLLOW_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class TopicTarget:
    """All events of one topic."""

    topic: str


@dataclass(frozen=True, slots=True)
class VolumeTarget:
    """The events of all topics that are about one volume. partition: of the volume."""

    volume: str
    partition: int


Target: TypeAlias = TopicTarget | VolumeTarget


def find_target(settings: Settings, name: str) -> Target:
    """Return what `name` means: a topic, with or without its prefix, or else a volume.

    Raise BadUse if it is neither.
    """
    names = {spec.name for spec in settings.topics.specs(single_copy=True)}
    for topic in (name, f"{settings.topic_prefix}{name}"):
        if topic in names:
            return TopicTarget(topic)
    volume = load_volumes(settings).get(name)
    if volume is None:
        raise BadUse(
            f"there is no topic and no volume '{name}'",
            next=f"Name a volume, or one of {', '.join(sorted(names))}.",
        )
    return VolumeTarget(name, volume.partition)


def tail_events(
    settings: Settings, target: Target, since: Point, last: int | None, *, follow: bool
) -> Iterator[Message]:
    """Yield the messages of `target` after the point `since`, only the last few if `last` says so.

    Those of a volume come in the order of the broker's time. With `follow`, go on for ever with
    what is published later.

    Raise BadUse for a point that the target doesn't have; KafkaFailed as read_through does.
    """
    is_wanted = _filter_of(target, settings.topics)
    with closing(KafkaAdmin(settings.kafka_client())) as admin:
        parts = [
            _range_of(admin, topic, partition, since)
            for topic, partition in _parts_of(admin, target, settings.topics, since)
        ]
    read = partial(_read, settings)
    if last is not None:
        yield from last_of_all(parts, last, read, is_wanted)
    else:
        ordered = in_order_of_time if isinstance(target, VolumeTarget) else chain.from_iterable
        with ExitStack() as stack:
            readers = [stack.enter_context(closing(read(part))) for part in parts]
            yield from filter(is_wanted, ordered(readers))
    if follow:
        yield from filter(is_wanted, _follow(settings, parts))


def _parts_of(
    admin: KafkaAdmin, target: Target, topics: Topics, since: Point
) -> Iterable[tuple[str, int]]:
    if isinstance(target, TopicTarget):
        return [(target.topic, number) for number in range(admin.partitions(target.topic))]
    if isinstance(since, AtPosition):
        raise BadUse(
            f"a position isn't the same place in every topic, and the events of volume "
            f"'{target.volume}' are in several",
            next=f"Give a time, or tail {topics.commands}.",
        )
    existing = admin.names(topics.prefix)
    spread = (topics.commands, topics.status, topics.changelog)
    single = (topics.volumes, topics.quarantine, topics.progress)
    parts = [*((topic, target.partition) for topic in spread), *((topic, 0) for topic in single)]
    return [part for part in parts if part[0] in existing]


def _range_of(admin: KafkaAdmin, topic: str, partition: int, since: Point) -> PartRange:
    """Return the positions of a partition that lie after `since`, to its present end."""
    if isinstance(since, AtTime):
        start, end = admin.appended_from(topic, partition, since.at_us)
        return PartRange(topic, partition, start=start, end=end)
    first, end = admin.bounds(topic, partition)
    if isinstance(since, AtOrigin):
        return PartRange(topic, partition, start=first, end=end)
    if isinstance(since, AtEnd):
        return PartRange(topic, partition, start=end, end=end)
    if isinstance(since, AtPosition):
        start = min(max(first, since.position + 1), end)
        return PartRange(topic, partition, start=start, end=end)
    raise BadUse(
        "a barrier and a site are points of a volume's commands, and no point of a topic",
        next="Give a time, @POSITION, origin or now.",
    )


def _filter_of(target: Target, topics: Topics) -> Wanted:
    if isinstance(target, TopicTarget):
        return lambda _: True
    name = target.volume
    return lambda message: (
        name == volume_of(message, topic_of_log=topics.changelog, topic_of_volumes=topics.volumes)
    )


def _read(settings: Settings, part: PartRange) -> Generator[Message]:
    return read_range(
        lambda: KafkaReader(settings.kafka_client()),
        part.topic,
        part.partition,
        patience_for(f"reading topic {part.topic}"),
        start=part.start,
        end=part.end,
    )


def _follow(settings: Settings, parts: Sequence[PartRange]) -> Iterator[Message]:
    with closing(KafkaReader(settings.kafka_client())) as reader:
        for topic in {part.topic for part in parts}:
            reader.assign(
                topic, {part.partition: part.end for part in parts if part.topic == topic}
            )
        while True:
            yield from reader.poll(_FOLLOW_POLL_S)
