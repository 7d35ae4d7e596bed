"""The log proves itself: the commands are folded again, and every record is compared with them.

The check reads and clips commands as the node does (`streams/fold/response.py`). It shares nothing
with how the node cuts them into records.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mirrorlog.domain.bitmaps import BlockSet, runs, touched, union, zeroed
from mirrorlog.domain.commands import Refusal, TrackingCommand
from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.domain.extraction import MAX_FORKS
from mirrorlog.domain.volume_states import DESCRIPTION_KINDS
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.authenticity import Authenticity
from mirrorlog.streams.fold.response import CommandResponse, check_command, read_command
from mirrorlog.streams.table.record_digests import RecordDigest, RecordDigests, RecordSpan
from mirrorlog.tracking_log.keys import missed_log, split_log_name
from mirrorlog.tracking_log.records import LogRecord
from mirrorlog.tracking_log.tiers import TIERS

DETAILED_DIFFERENCES: Final = 20
"""The number of differences of which the blocks are found."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A record that doesn't say what the commands in its range say.

    where: 'changelog' or 'table'. after, through: the range of the record, or the position that no
    record covers. missing, surplus: blocks that the record lacks, and blocks that no command names.
    Both are empty behind the first DETAILED_DIFFERENCES.
    """

    volume: str
    where: str
    tier: int
    after: int
    through: int
    missing: BlockSet
    surplus: BlockSet
    what: str

    def __str__(self) -> str:
        sides = (("missing", self.missing), ("surplus", self.surplus))
        blocks = ", ".join(
            f"{name} blocks {summarize_blocks(side)}" for name, side in sides if side
        )
        record = f"{TIERS[self.tier]} record ({self.after}, {self.through}]"
        detail = f"; {blocks}" if blocks else ""
        return f"volume {self.volume}, {self.where}, {record}: {self.what}{detail}"


def summarize_blocks(blocks: BlockSet, max_runs: int = 5) -> str:
    """Return the first runs of a set, and in brackets how many blocks it has."""
    shown = []
    for start, count in runs(blocks):
        shown.append(f"{start}-{start + count - 1}" if count > 1 else str(start))
        if len(shown) == max_runs:
            shown.append("…")
            break
    return f"{', '.join(shown)} ({len(blocks)})"


def check_records(
    messages: Iterable[Message],
    volumes: Mapping[str, Volume],
    digests: RecordDigests,
    *,
    where: str,
    reread: Callable[[], Iterable[LogRecord]],
    through: int = MAX_BYTE,
    authenticity: Authenticity | None = None,
) -> Iterator[Difference]:
    """Yield the differences between the commands of one partition and its records of all tiers.

    messages: the commands in their order. volumes: those to check, by name.
    digests: of the records of these volumes and of what each site has missed of them.
    where: 'changelog' or 'table'. reread: reads the records again, for each detailed difference.
    through: records that end above it are left out.
    authenticity: the node's keys; None: they aren't known. Then a command that would change the
    description of an authenticated volume, and hasn't, counts as refused.

    A record that begins before the first message isn't judged, because a part of its commands is
    gone. Nor is a record that misses a part: a reader doesn't use it either. Memory: a digest for
    each part of a record, and the bitmaps of the records that are open at a position.
    """
    authenticated = {name for name, volume in volumes.items() if volume.is_authenticated}
    finder = _DifferenceFinder(reread, where, authenticated)
    check = _Check(digests.by_log(through), finder, where)
    is_first = True
    for message in messages:
        if is_first:
            check.judge_from(message.position)
            is_first = False
        command = read_command(message)
        name = command.volume if isinstance(command, TrackingCommand) else ""
        objection = _objection(authenticity, message, command, volumes.get(name))
        response = check_command(message, command, volumes.get(name), objection)
        if response.volume is not None:
            yield from check.fold(name, response)
    yield from check.finish()


def _objection(
    authenticity: Authenticity | None,
    message: Message,
    command: TrackingCommand | Refusal,
    volume: Volume | None,
) -> str | None:
    """Return why the node has refused a command as not authentic; None if it hasn't."""
    if isinstance(command, Refusal) or volume is None:
        return None
    if authenticity is not None:
        return authenticity.objection(message, command, volume)
    changes_nothing = message.position > volume.described_position
    if (
        volume.is_authenticated_at(message.position)
        and command.kind in DESCRIPTION_KINDS
        and changes_nothing
    ):
        return "it has changed nothing"
    return None


class _Check:
    """The state of one check. waiting: the records whose range hasn't begun, by log."""

    def __init__(
        self, waiting: dict[str, deque[RecordDigest]], finder: _DifferenceFinder, where: str
    ) -> None:
        self._waiting, self._finder, self._where = waiting, finder, where
        self._open: dict[str, list[RecordDigest]] = defaultdict(list)
        self._missed_logs = _MissedLogs(waiting)

    def judge_from(self, first_position: int) -> None:
        """Judge only the records that begin at the position of the first message or later."""
        for digests in self._waiting.values():
            for digest in digests:
                digest.judge_from(first_position)

    def fold(self, volume: str, response: CommandResponse) -> Iterator[Difference]:
        """Add a command to the records whose range it lies in.

        Yield the differences of the records that ended before it, and one if no record covers it.
        Since the history of the partition was renewed, none need cover a command at or below the
        volume's origin: its sites copied everything.
        """
        self._missed_logs.note(volume, response)
        if not len(response.extents):
            return
        position, described = response.message.position, response.volume
        assert described is not None
        is_earlier = described.epoch > 1 and position <= described.origin_position
        for log, changed, zeros in _folded(volume, response, self._missed_logs.sites_of(volume)):
            opened = self._open[log]
            yield from self._finder.close(opened, position)
            _open_records(self._waiting.get(log), opened, position)
            if changed and not opened and not is_earlier and self._missed_logs.has_begun(log):
                yield Difference(
                    log,
                    self._where,
                    tier=0,
                    after=position - 1,
                    through=position,
                    missing=changed,
                    surplus=BlockSet(),
                    what="no record covers the command",
                )
            for digest in opened:
                digest.fold(changed=changed, zeroed=zeros)

    def finish(self) -> Iterator[Difference]:
        """Yield the differences of all records that are left. There are no more commands."""
        for log in {*self._waiting, *self._open}:
            _open_records(self._waiting.get(log), self._open[log], None)
            yield from self._finder.close(self._open[log], None)


class _MissedLogs:
    """The sites of each volume that have a log of what they missed.

    logs: the names of those that have records. A log begins with the first command that names its
    site; only from then on must it cover the commands.
    """

    def __init__(self, logs: Iterable[str]) -> None:
        self._sites: dict[str, dict[str, None]] = defaultdict(dict)
        self._begun: dict[str, dict[str, None]] = defaultdict(dict)
        for volume, site in map(split_log_name, logs):
            if site is not None:
                self._sites[volume][site] = None

    def note(self, volume: str, response: CommandResponse) -> None:
        """Note the sites that a command names: the first MAX_FORKS of them have a log."""
        begun = self._begun[volume]
        for site in response.forks.missed:
            if site in begun or len(begun) < MAX_FORKS:
                begun[site] = self._sites[volume][site] = None

    def sites_of(self, volume: str) -> Iterable[str]:
        """Return the sites of a volume that have a log."""
        return self._sites[volume]

    def has_begun(self, log: str) -> bool:
        """Return whether the log must cover the command that was noted last."""
        volume, site = split_log_name(log)
        return site is None or site in self._begun[volume]


def _folded(
    volume: str, response: CommandResponse, sites: Iterable[str]
) -> Iterator[tuple[str, BlockSet, BlockSet]]:
    """Yield (log, changed, zeroed) of a command for its volume's log and each site's missed log."""
    assert response.volume is not None
    block_size, size_bytes = response.volume.block_size, response.volume.size_bytes
    yield (
        volume,
        touched(response.extents, block_size),
        zeroed(response.extents, block_size=block_size, size_bytes=size_bytes),
    )
    for site in sites:
        yield missed_log(volume, site), touched(response.missed_by(site), block_size), BlockSet()


def _open_records(
    waiting: deque[RecordDigest] | None, opened: list[RecordDigest], position: int | None
) -> None:
    """Move the records whose range has begun at `position` to `opened`; None moves all of them."""
    while waiting and (position is None or waiting[0].span.after < position):
        opened.append(waiting.popleft())


class _DifferenceFinder:
    """Compares records with what was folded. reread, where: as for check_records.

    authenticated: volumes whose zeroed blocks aren't compared. Which of their commands may be bytes
    that were sent before, and so prove no zeros, depends on the head that the node had.
    """

    def __init__(
        self, reread: Callable[[], Iterable[LogRecord]], where: str, authenticated: Collection[str]
    ) -> None:
        self._reread, self._where = reread, where
        self._authenticated = authenticated
        self._count = 0

    def close(self, opened: list[RecordDigest], position: int | None) -> Iterator[Difference]:
        """Take the records that end before `position` from `opened`, and yield their differences.

        None takes all of them.
        """
        ended = [digest for digest in opened if position is None or digest.span.through < position]
        for digest in ended:
            opened.remove(digest)
            if not digest.is_judged:
                continue
            agreement = digest.agreement()
            if not agreement.changed:
                yield self._difference(digest.span, "changed", digest.folded)
            if not agreement.zeroed and digest.span.volume not in self._authenticated:
                yield self._difference(digest.span, "zeroed", digest.folded_zeroed)

    def _difference(self, span: RecordSpan, what: str, folded: BlockSet) -> Difference:
        missing, surplus = BlockSet(), BlockSet()
        self._count += 1
        if self._count <= DETAILED_DIFFERENCES:
            parts = [record for record in self._reread() if RecordSpan.of(record) == span]
            held = union(part.changed if what == "changed" else part.zeroed for part in parts)
            missing, surplus = folded - held, held - folded
        return Difference(
            span.volume,
            self._where,
            span.tier,
            span.after,
            span.through,
            missing,
            surplus,
            f"'{what}' differs",
        )
