"""Which blocks of a volume changed between two points: exactly, at both edges.

Writes that a host still held back when the question was asked (its open batch) are in no log yet,
and not in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mirrorlog.changed.fold import ChangedBlocks, ChangeFold
from mirrorlog.changed.own_times import (
    ALL_TIMES,
    Share,
    TimeWindow,
    own_times_range,
    position_of_time,
)
from mirrorlog.changed.point_positions import TimePositions, position_of
from mirrorlog.changed.points import AnsweringClock, AskedTimes, AtTime, Point
from mirrorlog.changed.proven_log import (
    ProvenLog,
    covering_records,
    out_of_retention,
    uncovered_ranges,
)
from mirrorlog.changed.volume_commands import QueryPorts, VolumeCommands
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention
from mirrorlog.tracking_log.records import LogRecord


def changed_blocks(
    name: str, since: Point, until: Point, ports: QueryPorts, patience_s: float = 30.0
) -> ChangedBlocks:
    """Return the blocks of volume `name` that changed after `since`, through `until`.

    1. Read the volume's description, and where its commands end, both as of now.
    2. Turn positions, barriers and sites into positions.
    3. Read the log until it is complete through `until`; through the end of the commands if a point
       is a time.
    4. Turn times into positions, by the records and the commands in them.
    5. Prove that the log covers the whole range (invariant 5). Nothing is answered before.
    6. Unite the records that lie in the range. Fold the rest, at the edges, from the commands.

    A volume that is younger than the time `since` is answered from its creation on, and `asked` in
    the answer says so. If a recording was imported into the volume, times are the writes' own
    (own_times), and no positions are made of them in step 4.

    Raise UnknownVolume; BadUse for a point that doesn't exist; OutOfRetention, with the position
    from which the log can answer, if it doesn't reach back; KafkaFailed if the log isn't complete
    within `patience_s`, or if a topic makes no progress for that long.
    """
    ports.catalog.refresh()
    volume = ports.catalog.volume_named(name)
    open_commands = ports.open_commands or VolumeCommands
    commands = open_commands(volume, ports, patience_s)
    last = commands.last_position()  # 1
    after, through = (
        position_of(point, volume, commands, ports.topics.progress, last)
        for point in (since, until)
    )  # 2
    _check_order(volume, since, after, until, through)
    needed = last if after is None or through is None else through
    log = ProvenLog(volume, ports.logs.read(volume, needed, patience_s))  # 3
    try:
        is_recorded = volume.recorded_since_us is not None
        if is_recorded and (isinstance(since, AtTime) or isinstance(until, AtTime)):
            since_point = since if isinstance(since, AtTime) else after
            until_point = until if isinstance(until, AtTime) else through
            return _answer_by_own_times(volume, log, commands, ports, since_point, until_point)
        times = TimePositions(volume, log, commands)
        if isinstance(until, AtTime):
            through = times.until(until)  # 4
        began_us = None
        if isinstance(since, AtTime):
            after, began_us = times.since(since)
        assert after is not None
        assert through is not None
        after = min(after, through)
        log.prove(after=after, through=through)  # 5
        answer = _fold_range(volume, log, commands, ports, after=after, through=through)  # 6
        return replace(answer, asked=_asked_times(since, until, began_us))
    finally:
        log.close()


def _asked_times(
    since: Point | int | None,
    until: Point | int | None,
    volume_began_us: int | None,
    clock: AnsweringClock = AnsweringClock.BROKER,
) -> AskedTimes:
    """Return the times that the question names. volume_began_us, clock: as in AskedTimes."""
    has_time = isinstance(since, AtTime) or isinstance(until, AtTime)
    return AskedTimes(
        since_us=since.at_us if isinstance(since, AtTime) else None,
        until_us=until.at_us if isinstance(until, AtTime) else None,
        volume_began_us=volume_began_us,
        clock=clock if has_time else None,
    )


def _check_order(
    volume: Volume, since: Point, after: int | None, until: Point, through: int | None
) -> None:
    """Raise OutOfRetention below the volume's origin, BadUse if `since` is later than `until`."""
    origin = volume.origin_position
    for position in (after, through):
        if position is not None and position < origin:
            at_us = volume.created_at_us or None
            what = "the volume's log begins later"
            raise out_of_retention(volume, what, position, base=origin, at_us=at_us)
    is_backwards = after is not None and through is not None and after > through
    if isinstance(since, AtTime) and isinstance(until, AtTime):
        is_backwards = since.at_us > until.at_us
    if is_backwards:
        raise BadUse(
            "--since lies after --until", where=f"volume {volume.volume}, {since}, {until}"
        )


def _answer_by_own_times(
    volume: Volume,
    log: ProvenLog,
    commands: VolumeCommands,
    ports: QueryPorts,
    since: AtTime | int | None,
    until: AtTime | int | None,
) -> ChangedBlocks:
    """Return what was made between two points of which one at least is a time. Close the log.

    since, until: times, or positions. The answer's positions are those through which everything was
    made at the times or before.
    """
    assert since is not None
    assert until is not None
    appends = commands.append_times()
    span = own_times_range(volume, log, appends, since, until)
    answer = _fold_range(
        volume,
        log,
        commands,
        ports,
        after=min(span.after, span.through),
        through=span.through,
        window=span.window,
    )
    first_parts, watermark = log.first_parts(span.after), log.watermark
    since_position, until_position = (
        point
        if isinstance(point, int)
        else position_of_time(first_parts, point, appends, after=span.after, watermark=watermark)
        for point in (since, until)
    )
    asked = _asked_times(since, until, span.volume_began_us, AnsweringClock.OWN)
    return replace(
        answer, since=min(since_position, until_position), until=until_position, asked=asked
    )


def _fold_range(
    volume: Volume,
    log: ProvenLog,
    commands: VolumeCommands,
    ports: QueryPorts,
    *,
    after: int,
    through: int,
    window: TimeWindow = ALL_TIMES,
) -> ChangedBlocks:
    """Return the answer for `(after, through]`, which the log covers. Close the log.

    window: only what was made in it counts.
    """
    records = log.records()
    shares = [window.share_of(record[0]) for record in records]
    whole = [
        record
        for record, share in zip(records, shares, strict=True)
        if share is Share.NONE
        or (share is Share.ALL and after <= record[0].after and record[0].through <= through)
    ]
    decided = list(covering_records(whole, after=after, through=through))
    fold = ChangeFold(volume)
    for record in decided:
        ports.checkpoint()
        if window.share_of(record[0]) is Share.ALL:
            fold.add_record(log.parts(record))
    log.close()
    for start, end in uncovered_ranges(decided, after=after, through=through):
        # Where no record reaches, nothing of the volume happened: the chain and the watermark
        # prove it.
        edges = [record[0] for record in covering_records(records, after=start, through=end)]
        if edges:
            _fold_commands(fold, volume, commands, edges, window, after=start, through=end)
    return fold.result(since=after, until=through)


def _fold_commands(
    fold: ChangeFold,
    volume: Volume,
    commands: VolumeCommands,
    edges: Sequence[LogRecord],
    window: TimeWindow,
    *,
    after: int,
    through: int,
) -> None:
    """Fold the commands in `(after, through]` that the records `edges` cover.

    window: only what was made in it counts.
    """
    after = max(after, min(record.after for record in edges))
    through = min(through, max(record.through for record in edges))
    if not commands.is_kept(after):
        raise OutOfRetention(
            f"the commands at positions {after + 1} to {through}, in the middle of a log record, "
            "are no longer kept",
            where=f"volume {volume.volume}",
            next=f"Ask from or to where a record ends: @{edges[0].after} or @{edges[-1].through}. "
            "If an archive has the commands, ask without --node and name it (the setting "
            "`archive`): a node doesn't read it.",
        )
    for command in commands.read(after=after, through=through, choose=window.part_of):
        fold.add_command(command.command, command.extents)
