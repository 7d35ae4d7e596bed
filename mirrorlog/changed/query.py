"""Which blocks of a volume changed between two points: exactly, at both edges.

Positions order, times are for people (invariant 10). A time becomes a position by the times that hosts gave their commands,
rounded so that the answer names a block too many rather than one too few, however the hosts' clocks went:

- since T: the answer begins with the first command of the volume whose last write was made after T;
- until T: it ends with the last command whose first write was made at T or before.

Kafka's own times aren't asked: no proof leads from a broker's clock to a host's, and the records' times find the place.

What a host held back when the question was asked (its open batch) isn't in any log yet, and not in the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mirrorlog.changed.fold import ChangedBlocks, Fold
from mirrorlog.changed.logs import LogView, VolumeLogs
from mirrorlog.changed.points import (
    AtBarrier,
    AtPosition,
    AtSite,
    AtTime,
    Now,
    Origin,
    Point,
    format_time,
)
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import IMPORTED, CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.extraction import command_extents, extract
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.records import LogRecord

Event = TypeVar("Event")
_BARRIER_STEP: Final = 10_000
"""Commands looked at first for a barrier, from the end back; four times as many with each further look."""


@dataclass(frozen=True, slots=True)
class QueryPorts:
    """What a query needs from outside.

    open_reader: a reader of its own for each stretch of commands that is read. go_on is called often, between two steps of
    little work each: it may rest, or raise to give the query up.
    """

    open_reader: Callable[[], TopicReader]
    admin: TopicAdmin
    catalog: Catalog
    topics: Topics
    clock: Clock
    logs: VolumeLogs
    go_on: Callable[[], None] = lambda: None


def changed_blocks(
    name: str, since: Point, until: Point, ports: QueryPorts, patience_s: float = 30.0
) -> ChangedBlocks:
    """The blocks of volume `name` that changed after `since`, through `until`:

    1. The volume's description is read as of now, and where its commands end.
    2. Positions, barriers and sites become positions.
    3. The log is read until it is complete through `until`; through the commands' end where a time is asked for.
    4. Times become positions: the records say which of them has the place, its commands where it is.
    5. That the log covers the whole range is proved (invariant 5): nothing is answered before.
    6. The records that lie inside are united. What they leave, at the edges, is folded from the commands.

    BadUse for a volume or a point that isn't there; OutOfRetention, saying from when on the log can answer, where it
    doesn't reach; KafkaFailed where the log isn't complete within `patience_s`.
    """
    ports.catalog.refresh()
    volume = ports.catalog.volume_named(name)
    return _Query(volume, ports, patience_s).answer(since, until)


class _Query:
    """One question about one volume."""

    def __init__(self, volume: Volume, ports: QueryPorts, patience_s: float) -> None:
        self._volume, self._ports, self._patience_s = volume, ports, patience_s
        self._view: LogView | None = None
        self._log, self._mark = VolumeLog(), volume.origin_position

    def answer(self, since: Point, until: Point) -> ChangedBlocks:
        try:
            return self._answer(since, until)
        finally:
            self._close()

    def _answer(self, since: Point, until: Point) -> ChangedBlocks:
        ends_at = self._ports.admin.end_position(
            self._ports.topics.commands, self._volume.partition
        )  # 1
        end = max(ends_at - 1, self._volume.origin_position)
        after, through = self._position(since, end), self._position(until, end)  # 2
        self._check_order(since, after, until, through)
        self._read_log(end if after is None or through is None else through)  # 3
        through = self._position_until(until) if through is None else through  # 4
        after = min(self._position_since(since), through) if after is None else min(after, through)
        self._prove(after, through)  # 5
        return self._fold(after, through)  # 6

    # Points

    def _position(self, point: Point, end: int) -> int | None:
        """The position of a point; None for a time, which only the log can tell."""
        match point:
            case AtTime():
                return None
            case AtPosition(position):
                return position
            case Origin():
                return self._volume.origin_position
            case Now():
                return end
            case AtBarrier(name):
                return self._barrier(name, end)
            case AtSite(site):
                return self._applied(site)

    def _check_order(
        self, since: Point, after: int | None, until: Point, through: int | None
    ) -> None:
        origin = self._volume.origin_position
        for position in (after, through):
            if position is not None and position < origin:
                raise self._out("the volume's log begins later", position, origin)
        backwards = after is not None and through is not None and after > through
        if isinstance(since, AtTime) and isinstance(until, AtTime):
            backwards = since.at_us > until.at_us
        if backwards:
            raise BadUse(
                "--since lies after --until",
                where=f"volume {self._volume.volume}, {since}, {until}",
            )

    def _barrier(self, name: str, end: int) -> int:
        """Looks from the end back: of several of that name the newest is meant, and it is likely to be near."""
        kept = (
            self._ports.admin.first_position(self._ports.topics.commands, self._volume.partition)
            - 1
        )
        floor = max(kept, self._volume.origin_position)
        upper, step = end, _BARRIER_STEP
        while upper > floor:
            lower = max(floor, upper - step)
            found = [p for p, each, _ in self._commands(lower, upper) if _is_barrier(each, name)]
            if found:
                return found[-1]
            upper, step = lower, step * 4
        where = f"volume {self._volume.volume}, positions {floor + 1} to {end}"
        if kept > self._volume.origin_position:
            raise OutOfRetention(
                f"no barrier '{name}' is in the commands that are kept",
                where=where,
                next="Name a position or a time.",
            )
        raise BadUse(
            f"there is no barrier '{name}'", where=where, next="Name a position or a time."
        )

    def _applied(self, site: str) -> int:
        admin, topic = self._ports.admin, self._ports.topics.progress
        reports: dict[str, SiteProgress] = {}
        for message in self._messages(
            topic, 0, admin.first_position(topic, 0) - 1, admin.end_position(topic, 0) - 1
        ):
            report = _decoded(message, SiteProgress)
            if report is not None and report.volume == self._volume.volume:
                reports[report.site] = report
        where = f"volume {self._volume.volume}, site {site}"
        if site not in reports:
            known = ", ".join(sorted(reports)) or "none"
            raise BadUse(
                "the site has reported nothing of the volume",
                where=where,
                next=f"Sites that have: {known}.",
            )
        report = reports[site]
        if report.generation != self._volume.generation:
            raise OutOfRetention(
                f"the site has applied generation {report.generation}, and the log is of {self._volume.generation}",
                where=where,
                next="The site's next resync mends it.",
            )
        if report.applied_position is None:
            raise BadUse(
                "the site hasn't applied anything yet",
                where=where,
                next="Wait for its initial copy.",
            )
        return report.applied_position

    # Times

    def _position_since(self, point: Point) -> int:
        """Before the first command with a write after the time; a whole record where its commands are gone."""
        at_us, base, records = self._reaching(point)
        for record in records:
            if record.last_at_us <= at_us:
                continue
            after = max(record.after, base)
            if not self._kept(after):
                return after
            later = (
                p - 1
                for p, each, some in self._commands(after, record.through)
                if each.last_at_us > at_us and _any(some)
            )
            if (found := next(later, None)) is not None:
                return found
        return self._mark

    def _position_until(self, point: Point) -> int:
        """The last command with a write at or before the time; a whole record where its commands are gone."""
        at_us, base, records = self._reaching(point)
        for record in reversed(records):
            if record.first_at_us > at_us:
                continue
            after = max(record.after, base)
            if not self._kept(after):
                return record.through
            found = None
            for position, command, extents in self._commands(after, record.through):
                if command.first_at_us <= at_us and _any(extents):
                    found = position
            if found is not None:
                return found
        return base

    def _reaching(self, point: Point) -> tuple[int, int, list[LogRecord]]:
        """(the time, from where on the log can answer, its records); OutOfRetention where the time is before that."""
        assert isinstance(point, AtTime)
        base = self._answers_from()
        records = [group[0] for group in _cover(self._log.complete_records(), base, self._mark)]
        known_from = self._volume.created_at_us
        if base > self._volume.origin_position:
            # What is gone was written before the oldest record that is kept, and not before any: a later record may hold
            # the times of a host whose clock is wrong. Those of an import say nothing about when commands came.
            dated = (
                record
                for record in records
                if not any(host.startswith(IMPORTED) for host in record.hosts)
            )
            known_from = next((record.first_at_us for record in dated), point.at_us + 1)
        if point.at_us < known_from:
            raise self._out(
                "the log doesn't reach back to that time", format_time(point.at_us), base
            )
        return point.at_us, base, records

    # Coverage

    def _read_log(self, needed: int) -> None:
        self._view = self._ports.logs.read(self._volume, needed, self._patience_s)
        self._log, self._mark = (
            self._view.log,
            max(self._view.complete_through, self._volume.origin_position),
        )

    def _close(self) -> None:
        if self._view is not None:
            self._view.close()

    def _prove(self, after: int, through: int) -> None:
        # A hole may begin in the range and end behind it: only all of the log after `after` tells.
        hole = self._hole(after)
        if hole is not None and hole.after < through:
            raise self._out(
                f"the log has a hole: positions {hole.after + 1} to {hole.through} are covered by no record",
                after,
                self._answers_from(),
            )

    def _hole(self, after: int) -> Hole | None:
        """As VolumeLog.hole through the watermark; and where the head says that the chain goes on, it must be there."""
        if hole := self._log.hole(after=after, through=self._mark):
            return hole
        head = self._log.head
        if head is None or head.generation != self._volume.generation:
            return None
        reach = max([after, *(group[0].through for group in self._log.complete_records())])
        return Hole(reach, head.through) if reach < head.through <= self._mark else None

    def _answers_from(self) -> int:
        """The lowest position from which on the log has no hole."""
        position = self._volume.origin_position
        while hole := self._hole(position):
            position = hole.through
        return position

    def _kept(self, after: int) -> bool:
        return (
            self._ports.admin.first_position(self._ports.topics.commands, self._volume.partition)
            <= after + 1
        )

    def _out(self, what: str, asked: object, base: int) -> OutOfRetention:
        if base == self._volume.origin_position:
            times = [self._volume.created_at_us] if self._volume.created_at_us else []
        else:
            kept = [group[0] for group in _cover(self._log.complete_records(), base, self._mark)]
            times = [
                r.first_at_us
                for r in kept
                if not any(host.startswith(IMPORTED) for host in r.hosts)
            ][:1]
        time = format_time(min(times)) if times else None
        return OutOfRetention(
            what,
            where=f"volume {self._volume.volume}, asked for {asked}",
            next=f"The log can answer from position {base} on{f', {time}' if time else ''}: --since @{base}.",
        )

    # The fold

    def _fold(self, since: int, until: int) -> ChangedBlocks:
        groups = list(self._log.complete_records())
        inside = list(
            _cover(
                (g for g in groups if since <= g[0].after and g[0].through <= until), since, until
            )
        )
        fold = Fold(self._volume)
        assert self._view is not None
        for group in inside:
            self._ports.go_on()
            fold.add_record(self._view.parts(group))
        self._close()
        for after, through in _left(inside, since, until):
            # Where no record reaches, nothing of the volume happened: the chain and the watermark prove it.
            partly = [g[0] for g in _cover(groups, after, through)]
            if partly:
                self._replay(
                    fold,
                    max(after, min(r.after for r in partly)),
                    min(through, max(r.through for r in partly)),
                    partly,
                )
        return fold.result(since, until)

    def _replay(self, fold: Fold, after: int, through: int, partly: Sequence[LogRecord]) -> None:
        if not self._kept(after):
            raise OutOfRetention(
                f"the commands at positions {after + 1} to {through}, in the middle of a log record, are no longer kept",
                where=f"volume {self._volume.volume}",
                next=f"Ask from or to where a record ends: @{partly[0].after} or @{partly[-1].through}.",
            )
        for _, command, extents in self._commands(after, through):
            fold.add_command(command, extents)

    # Topics

    def _commands(
        self, after: int, through: int
    ) -> Iterator[tuple[int, TrackingCommand, ExtentColumns]]:
        """The volume's commands in `(after, through]`, with the extents that the node takes of them.

        What isn't a command was refused by the node too, and is in no record.
        """
        for message in self._messages(
            self._ports.topics.commands, self._volume.partition, after, through
        ):
            command = _decoded(message, TrackingCommand)
            if command is not None and command.volume == self._volume.volume:
                yield message.position, command, self._taken(command, message.position)

    def _taken(self, command: TrackingCommand, position: int) -> ExtentColumns:
        volume = self._volume.as_of(position)
        return extract(command_extents(command, volume, position).extents, volume).extents

    def _messages(self, topic: str, partition: int, after: int, through: int) -> Iterator[Message]:
        patience = ReadPatience(
            self._ports.clock,
            self._patience_s,
            f"reading what changed on volume {self._volume.volume}",
            before_poll=self._ports.go_on,
            poll_s=0.2,
        )
        return read_range(
            self._ports.open_reader, topic, partition, patience, start=after + 1, end=through + 1
        )


def _cover(
    groups: Iterable[tuple[LogRecord, ...]], after: int, through: int
) -> Iterator[tuple[LogRecord, ...]]:
    """Of the groups, in order, those that overlap `(after, through]`, without one that says what others said before it."""
    reach = after
    for group in groups:
        if group[0].through > reach and group[0].after < through:
            reach = group[0].through
            yield group


def _left(
    inside: Sequence[tuple[LogRecord, ...]], since: int, until: int
) -> Iterator[tuple[int, int]]:
    """The stretches of `(since, until]` between the records that lie inside it."""
    reach = since
    for group in inside:
        if group[0].after > reach:
            yield reach, group[0].after
        reach = group[0].through
    if until > reach:
        yield reach, until


def _decoded(message: Message, kind: type[Event]) -> Event | None:
    try:
        return None if message.value is None else decode(message.value, kind)
    except BadInput:
        return None


def _is_barrier(command: TrackingCommand, name: str) -> bool:
    return command.kind is CommandKind.BARRIER and command.note == name


def _any(extents: ExtentColumns) -> bool:
    return bool(extents.lengths.any())
