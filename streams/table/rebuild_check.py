"""The log proves itself: the commands are folded anew, and every record is held against what they say.

Shares the reading and clipping of commands with the node (response.py) and nothing of how it cuts them into records.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mirrorlog.domain.bitmaps import BitMap64, fingerprint, runs, touched, union, zeroed
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.domain.extraction import MAX_FORKS
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.response import CommandResponse, check_command, read_command
from mirrorlog.tracking_log.keys import RecordKey, missed_log, split_log_name
from mirrorlog.tracking_log.records import TIERS, LogRecord

DETAILED: Final = 20
"""So many differences are told block by block."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a record doesn't say what the commands in its range say. after, through: of the record, or of the position
    that no record covers. where: 'changelog' or 'table'. missing, surplus: of the first DETAILED differences."""

    volume: str
    where: str
    tier: int
    after: int
    through: int
    missing: BitMap64
    surplus: BitMap64
    what: str

    def __str__(self) -> str:
        sides = (("missing", self.missing), ("surplus", self.surplus))
        blocks = ", ".join(
            f"{name} blocks {summarize_blocks(each)}" for name, each in sides if each
        )
        name = f"{TIERS[self.tier]} record ({self.after}, {self.through}]"
        return f"volume {self.volume}, {self.where}, {name}: {self.what}{'; ' if blocks else ''}{blocks}"


def summarize_blocks(blocks: BitMap64, most: int = 5) -> str:
    """The first runs of a set, and how many blocks it has."""
    first = []
    for start, count in runs(blocks):
        first.append(f"{start}-{start + count - 1}" if count > 1 else str(start))
        if len(first) == most:
            first.append("…")
            break
    return f"{', '.join(first)} ({len(blocks)})"


class _Span(NamedTuple):
    """One record, all its parts together."""

    volume: str
    after: int
    through: int
    tier: int


@dataclass(slots=True)
class _Open:
    """What a record says, as digests by part, and what the commands have said so far of its range.

    parts: by their number, the first block of each and the digests of what it holds of changed and zeroed.
    """

    span: _Span
    expected_parts: int
    parts: dict[int, tuple[int, bytes, bytes]] = field(default_factory=dict)
    judged: bool = True
    folded: BitMap64 = field(default_factory=BitMap64)
    folded_zeroed: BitMap64 = field(default_factory=BitMap64)

    def add(self, record: LogRecord) -> None:
        self.expected_parts = record.parts
        first = record.changed.min() if record.changed else 0
        self.parts[record.part] = (first, fingerprint(record.changed), fingerprint(record.zeroed))

    def agrees(self) -> tuple[bool, bool]:
        """Whether changed, and whether zeroed, is what was folded."""
        firsts = [self.parts[number][0] for number in sorted(self.parts)]
        ends = [*firsts[1:], None]
        agreed = [True, True]
        for number, start, end in zip(sorted(self.parts), [0, *firsts[1:]], ends, strict=True):
            for kind, folded in enumerate((self.folded, self.folded_zeroed)):
                mine = folded if len(firsts) == 1 else _within(folded, start, end)
                agreed[kind] &= fingerprint(mine) == self.parts[number][1 + kind]
        return agreed[0], agreed[1]


def _within(blocks: BitMap64, start: int, end: int | None) -> BitMap64:
    mask = BitMap64()
    mask.add_range(start, (blocks.max() + 1 if blocks else start) if end is None else end)
    return blocks & mask


class RecordDigests:
    """What records say, as digests: a day's record may be larger than all else together."""

    def __init__(self, records: Iterable[LogRecord] = ()) -> None:
        self._found: dict[_Span, _Open] = {}
        for record in records:
            self.add(record)

    def add(self, record: LogRecord) -> None:
        """Takes a record, or a part of one."""
        span = _Span(record.volume, record.after, record.through, record.tier)
        self._found.setdefault(span, _Open(span, record.parts)).add(record)

    def drop(self, key: RecordKey) -> None:
        """The log dropped it."""
        if (
            whole := self._found.get(_Span(key.volume, key.after, key.through, key.tier))
        ) is not None:
            whole.parts.pop(key.part, None)

    def by_volume(self, through: int) -> dict[str, deque[_Open]]:
        """Records of which every part is there, in the order of positions; none that ends above `through`."""
        grouped: dict[str, deque[_Open]] = defaultdict(deque)
        for span, whole in sorted(self._found.items()):
            if len(whole.parts) == whole.expected_parts and span.through <= through:
                grouped[span.volume].append(whole)
        return grouped


def check_records(
    messages: Iterable[Message],
    volumes: Mapping[str, Volume],
    claims: RecordDigests,
    where: str,
    again: Callable[[], Iterable[LogRecord]],
    through: int = MAX_BYTE,
) -> Iterator[Difference]:
    """Differences between the commands of one partition, in order, and the records of its volumes, of whatever tier; the
    records of what each site has missed among them.

    Records that begin before the first message aren't judged: a part of their commands is gone; nor are those of which a
    part is missing: they say nothing to a reader either. again: the records, for each difference that is told in detail.
    Memory: a digest for each part of a record, and a bitmap for each record that is open at a position.
    """
    waiting = claims.by_volume(through)
    sites = _Sites(waiting)
    open_records: dict[str, list[_Open]] = defaultdict(list)
    judge = _Judge(again, where)
    first: int | None = None
    for message in messages:
        if first is None:
            first = message.position
            for each in (each for group in waiting.values() for each in group):
                each.judged = each.span.after + 1 >= first
        command = read_command(message)
        name = command.volume if isinstance(command, TrackingCommand) else ""
        answer = check_command(message, command, volumes.get(name))
        if answer.volume is None:
            continue
        sites.take(name, answer)
        for log, blocks, zeros in _folded(name, answer, sites) if len(answer.extents) else ():
            yield from judge.close(open_records[log], message.position)
            _open(waiting.get(log), open_records[log], message.position)
            if blocks and not open_records[log] and sites.is_due(log):
                what = "no record covers the command"
                yield Difference(
                    log, where, 0, message.position - 1, message.position, blocks, BitMap64(), what
                )
            for each in open_records[log]:
                each.folded |= blocks
                each.folded_zeroed |= zeros
    for name in {*waiting, *open_records}:
        _open(waiting.get(name), open_records[name], None)
        yield from judge.close(open_records[name], None)


class _Sites:
    """The missed logs of each volume: those that have records, and those that a command has begun."""

    def __init__(self, logs: Iterable[str]) -> None:
        self._of: dict[str, dict[str, None]] = defaultdict(dict)
        self._begun: dict[str, dict[str, None]] = defaultdict(dict)
        for volume, site in map(split_log_name, logs):
            if site is not None:
                self._of[volume][site] = None

    def take(self, volume: str, answer: CommandResponse) -> None:
        begun = self._begun[volume]
        for site in answer.forks.missed:
            if site in begun or len(begun) < MAX_FORKS:
                begun[site] = self._of[volume][site] = None

    def of(self, volume: str) -> Iterable[str]:
        return self._of[volume]

    def is_due(self, log: str) -> bool:
        """Whether the log must cover the command."""
        volume, site = split_log_name(log)
        return site is None or site in self._begun[volume]


def _folded(
    volume: str, answer: CommandResponse, sites: _Sites
) -> Iterator[tuple[str, BitMap64, BitMap64]]:
    """What a command says to each log of its volume: name, changed, zeroed."""
    assert answer.volume is not None
    block_size, size_bytes = answer.volume.block_size, answer.volume.size_bytes
    yield (
        volume,
        touched(answer.extents, block_size),
        zeroed(answer.extents, block_size=block_size, size_bytes=size_bytes),
    )
    for site in sites.of(volume):
        yield missed_log(volume, site), touched(answer.missed_by(site), block_size), BitMap64()


def _open(waiting: deque[_Open] | None, opened: list[_Open], position: int | None) -> None:
    """Records whose range has begun; all that are left where `position` is None."""
    while waiting and (position is None or waiting[0].span.after < position):
        opened.append(waiting.popleft())


@dataclass(slots=True)
class _Judge:
    again: Callable[[], Iterable[LogRecord]]
    where: str
    told: int = 0

    def close(self, opened: list[_Open], position: int | None) -> Iterator[Difference]:
        """Judges the records whose range has ended before `position`."""
        for each in [each for each in opened if position is None or each.span.through < position]:
            opened.remove(each)
            if not each.judged:
                continue
            for what, agrees, folded in zip(
                ("changed", "zeroed"), each.agrees(), (each.folded, each.folded_zeroed), strict=True
            ):
                if not agrees:
                    yield self._difference(each.span, what, folded)

    def _difference(self, span: _Span, what: str, folded: BitMap64) -> Difference:
        missing, surplus = BitMap64(), BitMap64()
        self.told += 1
        if self.told <= DETAILED:
            again = [r for r in self.again() if _Span(r.volume, r.after, r.through, r.tier) == span]
            found = union(r.changed if what == "changed" else r.zeroed for r in again)
            missing, surplus = folded - found, found - folded
        return Difference(
            span.volume,
            self.where,
            span.tier,
            span.after,
            span.through,
            missing,
            surplus,
            f"'{what}' differs",
        )
