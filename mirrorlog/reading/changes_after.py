"""Which blocks of volumes changed after a position, up to the end as of now. No node is asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet, touched
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extraction import command_extents, extract
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.reading.read_through import ReadPatience, read_range
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.records import LogRecord

PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.2
_PURPOSE: Final = "reading what changed on the volume"


def changes_after(
    positions: Mapping[str, int],
    volumes: Mapping[str, Volume],
    ports: SessionPorts,
    topics: Topics,
    clock: Clock,
) -> dict[str, BlockSet | None]:
    """Return, by volume, the blocks that commands name after its position, rounded outwards.

    The answer is None if nobody can tell: the log has a hole there, or it ends before commands that
    aren't kept any more. positions: by volume. volumes: the descriptions, by name.

    1. Read the log to its end. It is complete through its watermark.
    2. Add the commands above the watermark, to their end as of now.

    Raise KafkaFailed if a topic makes no progress for PATIENCE_S.
    """
    changed: dict[str, BlockSet | None] = {}
    for partition in sorted({volumes[name].partition for name in positions}):
        wanted = {
            name: position
            for name, position in positions.items()
            if volumes[name].partition == partition
        }
        end = ports.admin.end_position(topics.commands, partition)
        log = _read_log(partition, wanted, ports, topics, clock)  # 1
        watermark = log.watermarks.get(partition)
        through = BEFORE_FIRST if watermark is None else watermark.through
        for name, after in wanted.items():
            is_whole = log.logs[name].hole(after=after, through=through) is None
            changed[name] = (
                log.logs[name].changed(after=after, through=through) if is_whole else None
            )
        try:
            start = max(through, min(wanted.values())) + 1
            patience = ReadPatience(clock, PATIENCE_S, _PURPOSE)
            for message in read_range(
                ports.open_reader, topics.commands, partition, patience, start=start, end=end
            ):
                _add_command(changed, wanted, volumes, message)  # 2
        except OutOfRetention:
            changed |= dict.fromkeys(wanted)
    return changed


def _read_log(
    partition: int, after: Mapping[str, int], ports: SessionPorts, topics: Topics, clock: Clock
) -> LogReader:
    """Return the log of the volumes in `after`, as it is now."""

    def is_wanted(record: LogRecord) -> bool:
        return record.volume in after and record.through > after[record.volume]

    topic = topics.changelog
    with closing(ports.open_reader()) as reader:
        log = LogReader(reader, ports.admin, topic, [partition], forget_deleted=True)
        reached, progress_at_s = -1, clock.monotonic_s()
        while not log.caught_up():
            log.poll(_POLL_S, is_wanted)
            before, reached = reached, reader.reached(topic, partition)
            if reached != before:
                progress_at_s = clock.monotonic_s()
            elif clock.monotonic_s() - progress_at_s > PATIENCE_S:
                raise KafkaFailed(
                    f"{_PURPOSE} got no further for {PATIENCE_S:g} s",
                    where=f"topic {topic}, partition {partition}, reached position {reached}",
                    next="Check that the broker answers, then try again.",
                )
        return log


def _add_command(
    changed: dict[str, BlockSet | None],
    after: Mapping[str, int],
    volumes: Mapping[str, Volume],
    message: Message,
) -> None:
    """Add the blocks that a command names. Other messages and volumes are passed over."""
    with suppress(BadInput):
        command = decode(message.value or b"", TrackingCommand)
        blocks = changed.get(command.volume)
        if (
            blocks is None
            or command.volume not in after
            or message.position <= after[command.volume]
        ):
            return
        volume = volumes[command.volume].as_of(message.position)
        named = command_extents(command, volume, message.position).extents
        changed[command.volume] = blocks | touched(
            extract(named, volume).extents, volume.block_size
        )
