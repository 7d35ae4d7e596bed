"""The log proves itself: the commands are folded anew, and every record is held against what they say.

Shares the reading and clipping of commands with the node (response.py) and nothing of how it cuts them into records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mirrorlog.bitmaps import BitMap64, runs, touched, zeroed
from mirrorlog.commands import TrackingCommand
from mirrorlog.ports.streams import Message
from mirrorlog.streams.response import check, read_command
from mirrorlog.tracking_log import LogRecord
from mirrorlog.volumes import Volume


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a record doesn't say what the commands in its range say. after, through: of the record, or of the position
    that no record covers. where: 'changelog' or 'table'."""

    volume: str
    where: str
    after: int
    through: int
    missing: BitMap64
    surplus: BitMap64
    what: str

    def __str__(self) -> str:
        sides = (("missing", self.missing), ("surplus", self.surplus))
        blocks = ", ".join(f"{name} blocks {shown(each)}" for name, each in sides if each)
        return f"volume {self.volume}, {self.where}, record ({self.after}, {self.through}]: {self.what}; {blocks}"


def shown(blocks: BitMap64, most: int = 5) -> str:
    """The first runs of a set, and how many blocks it has."""
    first = []
    for start, count in runs(blocks):
        first.append(f"{start}-{start + count - 1}" if count > 1 else str(start))
        if len(first) == most:
            first.append("…")
            break
    return f"{', '.join(first)} ({len(blocks)})"


@dataclass(slots=True)
class _Open:
    """One record, all its parts together, and what the commands have said so far of its range."""

    after: int
    through: int
    changed: BitMap64
    zeroed: BitMap64
    judged: bool = True
    folded: BitMap64 = field(default_factory=BitMap64)
    folded_zeroed: BitMap64 = field(default_factory=BitMap64)


def compare(
    messages: Iterable[Message], volumes: Mapping[str, Volume], records: Iterable[LogRecord], where: str
) -> Iterator[Difference]:
    """Differences between the commands of one partition, in order, and the records of its volumes.

    Records that begin before the first message aren't judged: a part of their commands is gone. Memory: the records, and
    one more bitmap for each record that is open at a position.
    """
    waiting = _grouped(records)
    open_records: dict[str, list[_Open]] = defaultdict(list)
    first: int | None = None
    for message in messages:
        if first is None:
            first = message.position
            for each in (each for group in waiting.values() for each in group):
                each.judged = each.after + 1 >= first
        command = read_command(message)
        name = command.volume if isinstance(command, TrackingCommand) else ""
        answer = check(message, command, volumes.get(name))
        if answer.volume is None or not len(answer.extents):
            continue
        yield from _close(name, open_records[name], message.position, where)
        _open(waiting.get(name, []), open_records[name], message.position)
        blocks = touched(answer.extents, answer.volume.block_size)
        zeros = zeroed(answer.extents, answer.volume.block_size, answer.volume.size_bytes)
        if blocks and not open_records[name]:
            what = "no record covers the command"
            yield Difference(name, where, message.position - 1, message.position, blocks, BitMap64(), what)
        for each in open_records[name]:
            each.folded |= blocks
            each.folded_zeroed |= zeros
    for name in {*waiting, *open_records}:
        _open(waiting.get(name, []), open_records[name], None)
        yield from _close(name, open_records[name], None, where)


def _grouped(records: Iterable[LogRecord]) -> dict[str, list[_Open]]:
    parts: dict[tuple[str, int, int], _Open] = {}
    for record in records:
        key = (record.volume, record.after, record.through)
        whole = parts.setdefault(key, _Open(record.after, record.through, BitMap64(), BitMap64()))
        whole.changed |= record.changed
        whole.zeroed |= record.zeroed
    grouped: dict[str, list[_Open]] = defaultdict(list)
    for (volume, _, _), whole in sorted(parts.items(), key=lambda item: item[0]):
        grouped[volume].append(whole)
    return grouped


def _open(waiting: list[_Open], opened: list[_Open], position: int | None) -> None:
    """Records whose range has begun; all that are left where `position` is None."""
    while waiting and (position is None or waiting[0].after < position):
        opened.append(waiting.pop(0))


def _close(volume: str, opened: list[_Open], position: int | None, where: str) -> Iterator[Difference]:
    """Judges the records whose range has ended before `position`."""
    for each in [each for each in opened if position is None or each.through < position]:
        opened.remove(each)
        for what, folded, found in (
            ("changed", each.folded, each.changed),
            ("zeroed", each.folded_zeroed, each.zeroed),
        ):
            if each.judged and folded != found:
                missing, surplus = folded - found, found - folded
                yield Difference(volume, where, each.after, each.through, missing, surplus, f"'{what}' differs")
