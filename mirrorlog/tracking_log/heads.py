"""Entries of the log beside records: heads of volumes, heartbeats of sessions, watermarks.

Heads merge by maximum, minimum and union. Merging is commutative and idempotent, so replays and
duplicates change nothing (invariant 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from mirrorlog.domain.commands import LEFT_OUT_SESSIONS, CommandKind, TrackingCommand
from mirrorlog.domain.histories import NO_EPOCH, History, epoch_of
from mirrorlog.domain.positions import BEFORE_FIRST, OPENED_EARLIER
from mirrorlog.domain.volumes import Volume


@dataclass(frozen=True, slots=True)
class SessionHead:
    """The state of one session of a host on one volume, as the log knows it.

    opened_position: the position of the session's first command; OPENED_EARLIER if it was open
    when an earlier history of the partition ended.
    last_position: the position of its last command that isn't a SESSION_CLOSE.
    closed_position: the position of its SESSION_CLOSE.
    acknowledged_position: the highest acknowledged position that one of its commands names.
    open_forks: the sites, sorted, with an outcome OPEN in the command at last_position.

    A command behind the close opens the session again, because unknown is dirty. The exception is
    a command whose acknowledged position lies before the close: it was on its way when its host
    died, and the log names everything that the session wrote (docs/decisions/late-commands.md).
    """

    session: str
    host: str
    _: KW_ONLY
    opened_position: int = BEFORE_FIRST
    last_position: int = BEFORE_FIRST
    closed_position: int = BEFORE_FIRST
    acknowledged_position: int = BEFORE_FIRST
    last_sequence: int = BEFORE_FIRST
    last_at_us: int = 0
    open_forks: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Return whether the host may still hold writes that the log doesn't name."""
        if self.opened_position == OPENED_EARLIER and self.closed_position == BEFORE_FIRST:
            return True
        is_late = BEFORE_FIRST < self.acknowledged_position < self.closed_position
        return self.closed_position < self.last_position and not is_late

    def is_settled_after(self, end_position: int, beats: Mapping[str, int]) -> bool:
        """Return whether the session holds nothing back, as VolumeHead.settled_after() says."""
        known = max(self.acknowledged_position, beats.get(self.session, BEFORE_FIRST))
        is_known = self.session != LEFT_OUT_SESSIONS and known >= end_position
        return is_known or not self.is_open

    @property
    def size_bytes(self) -> int:
        """About what the session takes in the bytes of a head, rather more."""
        names = (self.session, self.host, *self.open_forks)
        return 64 + sum(len(name.encode()) + 2 for name in names)

    def carried_over(self) -> SessionHead:
        """Return the head of this open session in a new history.

        Its positions mean nothing there. The session stays open until it closes in the new history,
        and settles nothing by what it knew before. Its sequence numbers go on.
        """
        return SessionHead(
            session=self.session,
            host=self.host,
            opened_position=OPENED_EARLIER,
            last_sequence=self.last_sequence,
            last_at_us=self.last_at_us,
            open_forks=self.open_forks,
        )

    def merged(self, other: SessionHead) -> SessionHead:
        """Merge two heads of one session.

        The result has the lower opened position, the open forks of the later command, and the
        higher value of every other number.
        """
        opened = (self.opened_position, other.opened_position)
        return SessionHead(
            session=self.session,
            host=self.host,
            opened_position=min(
                (position for position in opened if position != BEFORE_FIRST),
                default=BEFORE_FIRST,
            ),
            last_position=max(self.last_position, other.last_position),
            closed_position=max(self.closed_position, other.closed_position),
            acknowledged_position=max(self.acknowledged_position, other.acknowledged_position),
            last_sequence=max(self.last_sequence, other.last_sequence),
            last_at_us=max(self.last_at_us, other.last_at_us),
            open_forks=tuple(
                sorted({*self._open_forks_beside(other), *other._open_forks_beside(self)})
            ),
        )

    def _open_forks_beside(self, other: SessionHead) -> tuple[str, ...]:
        """Return the open forks, or none if the last command of `other` is later."""
        return self.open_forks if self.last_position >= other.last_position else ()


@dataclass(frozen=True, slots=True)
class ForkHead:
    """The range of the log that says what one site has missed.

    after: the log names everything that the site has missed behind this position.
    through: the position at which its last record ends.
    """

    after: int
    through: int

    def merged(self, other: ForkHead) -> ForkHead:
        """Merge two heads of one site: the lower begin and the higher end."""
        return ForkHead(min(self.after, other.after), max(self.through, other.through))


@dataclass(frozen=True, slots=True)
class VolumeHead:
    """The newest state of a volume in the log.

    through: the end of the volume's chain of records.
    described_position: of the description by which the log was written. A reader with an older
    description reads a newer one first.
    sessions: all open ones, and some closed ones. If there are too many, the session
    LEFT_OUT_SESSIONS stands for those that the head no longer names (left_out).
    forks: by site, the range of the log of what the site has missed (keys.missed_log).
    epoch: of the history in which all positions here were taken.
    """

    volume: str
    generation: str
    _: KW_ONLY
    through: int
    sessions: tuple[SessionHead, ...] = ()
    described_position: int = BEFORE_FIRST
    forks: Mapping[str, ForkHead] = field(default_factory=dict)
    epoch: int = NO_EPOCH

    def merged(self, other: VolumeHead) -> VolumeHead:
        """Merge two heads of one volume.

        Of two histories, the result is the head of the later one: their positions can't be
        compared. Otherwise it has the higher position with its generation, and the sessions and
        forks of both, each merged.
        """
        if self.epoch != other.epoch:
            return self if self.epoch > other.epoch else other
        sessions = {head.session: head for head in self.sessions}
        for head in other.sessions:
            known = sessions.get(head.session)
            sessions[head.session] = head if known is None else known.merged(head)
        newer = self if self.through >= other.through else other
        return replace(
            newer,
            sessions=tuple(sessions.values()),
            described_position=max(self.described_position, other.described_position),
            forks=merged_forks(self.forks, other.forks),
        )

    @property
    def order(self) -> tuple[int, int]:
        """The epoch, and the last position of a session that the head knows of.

        Both only grow from one head of a volume to the next.
        """
        positions = (max(head.last_position, head.closed_position) for head in self.sessions)
        return self.epoch, max(positions, default=BEFORE_FIRST)

    def joined(self, other: VolumeHead) -> VolumeHead:
        """Merge two heads as a node wrote them: the later one names all sessions that count.

        The other one may name sessions that were closed or left out since.
        """
        merged = self.merged(other)
        if self.order == other.order or self.epoch != other.epoch:
            return merged
        named = {head.session for head in max(self, other, key=lambda head: head.order).sessions}
        return replace(
            merged, sessions=tuple(head for head in merged.sessions if head.session in named)
        )

    @property
    def has_left_out(self) -> bool:
        """Return whether sessions are open that the head doesn't name."""
        return any(head.session == LEFT_OUT_SESSIONS and head.is_open for head in self.sessions)

    def has_open_fork(self, site: str) -> bool:
        """Return whether an open session doesn't know the outcome of one of its writes there."""
        return any(site in head.open_forks for head in self.sessions if head.is_open)

    def settled_after(self, end_position: int, beats: Mapping[str, int]) -> bool:
        """Return whether the log names every write made before the topic's end was `end_position`.

        That holds once each open session has closed a batch of the volume after it knew that a
        command at or above `end_position` was acknowledged (invariant 8). Nobody knows what those
        knew that the head leaves out, so nothing is settled while they are open.

        beats: by session, the acknowledged position of its last heartbeat in the partition.
        """
        return all(head.is_settled_after(end_position, beats) for head in self.sessions)


def updates_session(command: TrackingCommand) -> bool:
    """Return whether the command changes the head of its session."""
    return command.sequence >= 0 or command.kind is CommandKind.SESSION_CLOSE


def session_head(
    command: TrackingCommand, position: int, open_forks: tuple[str, ...] = ()
) -> SessionHead:
    """Return the session's head after `command` alone, which is at `position`.

    Pass only commands for which updates_session is true.
    """
    closes = command.kind is CommandKind.SESSION_CLOSE
    acknowledged = command.acknowledged_position
    if acknowledged is None or command.session == LEFT_OUT_SESSIONS:
        acknowledged = BEFORE_FIRST
    return SessionHead(
        session=command.session,
        host=command.host,
        opened_position=BEFORE_FIRST if closes else position,
        last_position=BEFORE_FIRST if closes else position,
        closed_position=position if closes else BEFORE_FIRST,
        acknowledged_position=acknowledged,
        last_sequence=command.sequence,
        last_at_us=command.last_at_us,
        open_forks=open_forks,
    )


def is_promoted_at(volume: Volume, position: int) -> bool:
    """Return whether the command at `position` promoted a secondary. volume: by its description."""
    return any(promotion.position == position for promotion in volume.promotions)


def closed_sessions(sessions: Mapping[str, SessionHead], position: int) -> dict[str, SessionHead]:
    """Return the sessions behind a promotion at `position`: all are closed.

    They write to the former primary, if they write at all. Nobody waits for them who reads the new
    one (former_primary_reason keeps their later commands from opening them again).
    """
    return {
        name: replace(head, closed_position=position) if head.is_open else head
        for name, head in sessions.items()
    }


def former_primary_reason(volume: Volume, command: TrackingCommand, position: int) -> str | None:
    """Return why the command is about a former primary of the volume; None if it isn't.

    Such a command opens no session and settles nothing. Its addresses are recorded as all others
    are: with them the copies that parted become equal again (invariant 11).
    """
    promotion = volume.promotion_ending(command.generation)
    if promotion is None or position <= promotion.position:
        return None
    if command.kind is CommandKind.PROMOTE:
        return None
    return (
        f"it is about a former primary: site {promotion.site} was promoted at position "
        f"{promotion.position}"
    )


def left_out(sessions: Iterable[SessionHead], *, position: int) -> SessionHead:
    """Return the head of LEFT_OUT_SESSIONS, which stands for these sessions, of which one is open.

    position: through which the commands are folded. The result is open until a SESSION_CLOSE above
    it names LEFT_OUT_SESSIONS, whatever was closed before.
    """
    heads = list(sessions)
    opened = [head.opened_position for head in heads if head.opened_position != BEFORE_FIRST]
    return SessionHead(
        session=LEFT_OUT_SESSIONS,
        host=LEFT_OUT_SESSIONS,
        opened_position=min(opened, default=OPENED_EARLIER),
        last_position=position,
        closed_position=max(
            (head.closed_position for head in heads if head.session == LEFT_OUT_SESSIONS),
            default=BEFORE_FIRST,
        ),
        last_at_us=max(head.last_at_us for head in heads),
        open_forks=tuple(sorted({site for head in heads for site in head.open_forks})),
    )


def merged_forks(one: Mapping[str, ForkHead], other: Mapping[str, ForkHead]) -> dict[str, ForkHead]:
    """Merge two mappings from a site to the head of its log."""
    return {
        **one,
        **{site: fork.merged(one[site]) if site in one else fork for site, fork in other.items()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionBeat:
    """The last heartbeat of a session in one partition, for all of the session's volumes there.

    Before the heartbeat, the session published everything that it held for any of them. At that
    time it knew that `acknowledged_position` was acknowledged. So idle volumes cost nothing,
    whatever their number. `epoch` is that of the history in which the positions were taken.
    """

    session: str
    host: str
    position: int
    acknowledged_position: int
    at_us: int
    epoch: int = NO_EPOCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """The log of `partition` is complete through position `through`.

    history: the history in which the position was taken; None if an older node wrote it.
    anchor: the digest of the command at `through` (histories.anchor_of); None if it isn't known.
    """

    partition: int
    through: int
    at_us: int
    history: History | None = None
    anchor: bytes | None = None

    @property
    def epoch(self) -> int:
        """The epoch of its history."""
        return epoch_of(self.history)

    @property
    def order(self) -> tuple[int, int]:
        """The key by which watermarks are ordered: no position of an older history ever wins."""
        return self.epoch, self.through


def counts_for(watermark: Watermark, volume: Volume) -> bool:
    """Return whether the watermark says something of the volume's log.

    It doesn't if the volume's description began another history of the partition: the two stand in
    no order, and one of them is about to be replaced.
    """
    if volume.history_id is None:
        return True
    return watermark.history is not None and watermark.history.id == volume.history_id


def complete_through(watermark: Watermark | None, volume: Volume) -> int:
    """Return the position through which the volume's log is complete, in the volume's history.

    watermark: the last one of its partition. BEFORE_FIRST: none says anything of the volume's log.
    """
    if watermark is None or not counts_for(watermark, volume):
        return BEFORE_FIRST
    return watermark.through


@dataclass(frozen=True, slots=True)
class PositionTime:
    """The kind of a key that maps a time to the position through which the log was complete.

    Compaction learns the age of records from these entries. Readers don't need them.
    """

    partition: int
    at_us: int
