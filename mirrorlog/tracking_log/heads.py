"""What the log holds beside records: heads of volumes, heartbeats of sessions, watermarks of partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.positions import BEFORE_FIRST


@dataclass(frozen=True, slots=True)
class SessionHead:
    """What the log knows of one session of a host; merging two takes the greater of each field, of opened the lesser.

    opened_position: of its first command. last_position: of its last command that wasn't a SESSION_CLOSE.
    closed_position: of its SESSION_CLOSE.
    acknowledged_position: the highest that one of its commands knew as acknowledged.
    open_forks: sites of which its command at last_position left an outcome OPEN, sorted: merging takes that of the later.

    A command behind the close opens the session again (unknown is dirty), unless it says that it knew nothing from there on:
    then it was on its way when its host died, and the log names all that it wrote (docs/decisions/late-commands.md).
    """

    session: str
    host: str
    opened_position: int = BEFORE_FIRST
    last_position: int = BEFORE_FIRST
    closed_position: int = BEFORE_FIRST
    acknowledged_position: int = BEFORE_FIRST
    last_sequence: int = BEFORE_FIRST
    last_at_us: int = 0
    open_forks: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the host may still hold writes that the log doesn't name."""
        late = BEFORE_FIRST < self.acknowledged_position < self.closed_position
        return self.closed_position < self.last_position and not late

    def merged(self, other: SessionHead) -> SessionHead:
        """The greater of each: commutative and idempotent."""
        return SessionHead(
            self.session,
            self.host,
            min(
                (
                    each
                    for each in (self.opened_position, other.opened_position)
                    if each > BEFORE_FIRST
                ),
                default=BEFORE_FIRST,
            ),
            max(self.last_position, other.last_position),
            max(self.closed_position, other.closed_position),
            max(self.acknowledged_position, other.acknowledged_position),
            max(self.last_sequence, other.last_sequence),
            max(self.last_at_us, other.last_at_us),
            tuple(sorted({*self._open_at(other), *other._open_at(self)})),
        )

    def _open_at(self, other: SessionHead) -> tuple[str, ...]:
        """Its open forks, where its last command isn't before that of `other`."""
        return self.open_forks if self.last_position >= other.last_position else ()


@dataclass(frozen=True, slots=True)
class ForkHead:
    """Where the log of what one site has missed begins and ends; merging takes the lower begin, the higher end.

    after: it says all that the site has missed behind this position. through: where its last record ends.
    """

    after: int
    through: int

    def merged(self, other: ForkHead) -> ForkHead:
        """Commutative and idempotent."""
        return ForkHead(min(self.after, other.after), max(self.through, other.through))


@dataclass(frozen=True, slots=True)
class VolumeHead:
    """The newest of a volume: the last position that held a command for it, and its sessions.

    described_position: of the description by which the log was written. Whoever has an older one reads a newer first.
    forks: by site, the logs of what sites have missed (missed_log).
    """

    volume: str
    generation: str
    through: int
    sessions: tuple[SessionHead, ...] = ()
    described_position: int = BEFORE_FIRST
    forks: Mapping[str, ForkHead] = field(default_factory=dict)

    def merged(self, other: VolumeHead) -> VolumeHead:
        """The union of the sessions and of the forks, each merged; the higher position and its generation."""
        sessions = {each.session: each for each in self.sessions}
        for each in other.sessions:
            known = sessions.get(each.session)
            sessions[each.session] = each if known is None else known.merged(each)
        newer = self if self.through >= other.through else other
        described = max(self.described_position, other.described_position)
        forks = merged_forks(self.forks, other.forks)
        return replace(
            newer, sessions=tuple(sessions.values()), described_position=described, forks=forks
        )

    def has_open(self, site: str) -> bool:
        """Whether an open session doesn't know yet what became of one of its writes at the site."""
        return any(site in each.open_forks for each in self.sessions if each.is_open)

    def settled_after(self, end_position: int, beats: Mapping[str, int]) -> bool:
        """Whether no host can hold an unpublished write that was made before the topic ended at `end_position`.

        True when each open session closed a batch of the volume after a command at or above `end_position` had been
        acknowledged to it (invariant 8). `beats`: by session, the same for all of its volumes in the partition.
        """
        return all(
            max(each.acknowledged_position, beats.get(each.session, BEFORE_FIRST)) >= end_position
            for each in self.sessions
            if each.is_open
        )


def speaks_for_session(command: TrackingCommand) -> bool:
    """Whether the command says anything of its session in the volume."""
    return command.sequence >= 0 or command.kind is CommandKind.SESSION_CLOSE


def session_head(
    command: TrackingCommand, position: int, open_forks: tuple[str, ...] = ()
) -> SessionHead:
    """What a command that speaks for its session says of it."""
    closes = command.kind is CommandKind.SESSION_CLOSE
    return SessionHead(
        session=command.session,
        host=command.host,
        opened_position=BEFORE_FIRST if closes else position,
        last_position=BEFORE_FIRST if closes else position,
        closed_position=position if closes else BEFORE_FIRST,
        acknowledged_position=BEFORE_FIRST
        if command.acknowledged_position is None
        else command.acknowledged_position,
        last_sequence=command.sequence,
        last_at_us=command.last_at_us,
        open_forks=open_forks,
    )


def merged_forks(one: Mapping[str, ForkHead], other: Mapping[str, ForkHead]) -> dict[str, ForkHead]:
    """The sites of both."""
    return {
        **one,
        **{site: fork.merged(one[site]) if site in one else fork for site, fork in other.items()},
    }


@dataclass(frozen=True, slots=True)
class SessionBeat:
    """A session's last heartbeat in one partition: it speaks for all volumes that the session has there.

    Before it, the session published everything that it held for any of them, when it knew `acknowledged_position`.
    So idle volumes cost nothing, however many they are.
    """

    session: str
    host: str
    position: int
    acknowledged_position: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """The log of `partition` is complete through position `through`."""

    partition: int
    through: int
    at_us: int


@dataclass(frozen=True, slots=True)
class PositionTime:
    """Where the log of `partition` was complete at a time: so that the age of records is known. No reader needs it."""

    partition: int
    at_us: int
