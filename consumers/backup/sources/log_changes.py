"""In which blocks two states of a volume differ, by the log, and what the topics say of a position.

The states are points of backups, at positions A and B. Both hold what the log names at or below
their position. So they differ only in blocks that the log names above the lower of the two, up to
the higher one.

If a promotion ended the generation of a state, the state may hold writes above the position where
the promoted copy parted from the former primary. The log above that position names them all (docs/
decisions/failing-over.md), if the state is consistent. An inconsistent one may hold writes that no
command names, because their host died.
"""

from __future__ import annotations

from collections import deque
from contextlib import closing, suppress
from typing import Final, NamedTuple

from mirrorlog.changed.points import AtPosition
from mirrorlog.changed.proven_log import ProvenLog, covering_records
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    ChangesKnown,
    ChangesUnknown,
    PointChanges,
)
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.histories import anchor_of
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import ReadPatience, read_range

PATIENCE_S: Final = 30.0
_LOOK_BACK: Final = 100
"""How many positions below one without a message the message before it is looked for."""


class PositionFacts(NamedTuple):
    """What the commands topic says of a position.

    anchor: as in BackupPosition. at_us: when the broker took the last command at or below the
    position. Each is None if the topic doesn't tell.
    end: where the topic ends; None if the commands are in another cluster.
    """

    anchor: str | None
    at_us: int | None
    end: int | None


def position_facts(
    volume: Volume, position: int, ports: QueryPorts, patience_s: float = PATIENCE_S
) -> PositionFacts:
    """Return what the commands topic says of a position of the volume's partition.

    Raise KafkaFailed if it can't be read.
    """
    if ports.open_commands is not None:
        return PositionFacts(None, None, None)
    topic, partition = ports.topics.commands, volume.partition
    end = ports.admin.end_position(topic, partition)
    first = max(ports.admin.first_position(topic, partition), position - _LOOK_BACK)
    last: Message | None = None
    patience = ReadPatience(ports.clock, patience_s, "reading the command at a backup's position")
    upper = min(position + 1, end)
    with suppress(OutOfRetention, IndexError):
        messages = read_range(ports.open_reader, topic, partition, patience, start=first, end=upper)
        with closing(messages):
            last = deque(messages, maxlen=1).pop()
    if last is None:
        return PositionFacts(None, None, end)
    anchor = anchor_of(last.key, last.value).hex() if last.position == position else None
    return PositionFacts(anchor, last.at_us if last.by_broker else None, end)


def changes_between(
    base: BackupPosition | None,
    now: BackupPosition,
    volume: Volume,
    ports: QueryPorts,
    patience_s: float = PATIENCE_S,
) -> PointChanges:
    """Return in which blocks the state at `now` may differ from the one at `base`.

    volume: its description as of now. The log must be complete through both positions, or become
    that within `patience_s`. Blocks behind the volume's end aren't named.

    1. Both positions must be of one history, and the commands there the ones that they were.
    2. Take the range of positions above which the two may differ.
    3. Ask the log, exactly at both edges. If the commands at an edge are gone, the blocks of whole
       records are named instead.

    Raise KafkaFailed if the log can't be read, or isn't complete in time.
    """
    if base is None:
        return ChangesUnknown("there is no earlier point")
    if (reason := _history_reason(base, now, volume, ports, patience_s)) is not None:  # 1
        return ChangesUnknown(reason)
    starts = [_start_of(state, volume) for state in (base, now)]  # 2
    for start in starts:
        if isinstance(start, ChangesUnknown):
            return start
    after = min(start for start in starts if isinstance(start, int))
    through = max(base.position, now.position)
    if after < volume.origin_position:
        return ChangesUnknown(
            f"the log of this generation begins at position {volume.origin_position}, and the "
            f"earlier point is at {after}",
            lost_log=True,
        )
    if after >= through:
        return ChangesKnown(blocks=BlockSet(), zeroed=BlockSet())
    is_forward = through == now.position  # what was zeroed is zeros in the later state only
    try:
        answer = changed_blocks(  # 3
            volume.volume, AtPosition(after), AtPosition(through), ports, patience_s
        )
    except OutOfRetention as error:
        return _rounded(after, through, volume, ports, patience_s) or ChangesUnknown(
            f"the log doesn't say what changed in positions {after + 1} to {through}: {error.what}",
            lost_log=True,
        )
    if answer.volume.generation != volume.generation:
        return ChangesUnknown("the volume's generation changed while the backup began")
    return ChangesKnown(blocks=answer.changed, zeroed=answer.zeroed if is_forward else BlockSet())


def _history_reason(
    base: BackupPosition, now: BackupPosition, volume: Volume, ports: QueryPorts, patience_s: float
) -> str | None:
    """Return why the two positions may mean commands of two histories; None if they don't."""
    if base.history_id != now.history_id or volume.history_id not in (None, now.history_id):
        return (
            f"the history of the partition changed from {base.history_id} to "
            f"{volume.history_id or now.history_id}: positions mean others now"
        )
    for state in (base, now):
        facts = position_facts(volume, state.position, ports, patience_s)
        if facts.end is not None and facts.end <= state.position:
            return (
                f"the commands topic ends at position {facts.end}, and a point was taken at "
                f"{state.position}: the topic went back in time"
            )
        if None not in (facts.anchor, state.anchor) and facts.anchor != state.anchor:
            return (
                f"position {state.position} holds another command than when a point was taken "
                "there: the topic went back in time, and its positions were used again"
            )
    return None


def _start_of(state: BackupPosition, volume: Volume) -> int | ChangesUnknown:
    """Return the position above which the log names all in which a state may be another one."""
    if state.generation == volume.generation:
        return state.position
    parted = volume.parted_after(state.generation)
    reason = f"the generation changed from {state.generation} to {volume.generation}"
    if parted is None:
        return ChangesUnknown(reason)
    if not state.is_consistent:
        return ChangesUnknown(
            f"{reason} by a promotion, and a point before it isn't proved: it may hold writes of "
            "the former primary that no command names"
        )
    return min(state.position, parted)


def _rounded(
    after: int, through: int, volume: Volume, ports: QueryPorts, patience_s: float
) -> ChangesKnown | None:
    """Return the blocks of the whole records in `(after, through]`; None if the log has a hole."""
    log = ProvenLog(volume, ports.logs.read(volume, through, patience_s))
    try:
        log.prove(after=after, through=through)
        blocks = BlockSet()
        for record in covering_records(log.records(), after=after, through=through):
            for part in log.parts(record):
                blocks |= part.changed
    except OutOfRetention:
        return None
    finally:
        log.close()
    blocks &= BlockSet.of_range(0, volume.blocks)
    return ChangesKnown(blocks=blocks, zeroed=BlockSet())
