"""What the archiver does next with one partition: a pure function of what it has seen.

The rules, in order:

A1. What the node hasn't recorded isn't archived: only a watermark says to which history positions
    belong. If the topic shows that this history broke, the archiver waits for the node's renewal.
A2. Positions of another Kafka cluster are refused: they mean other commands.
A3. A history with a chain goes on where its chain ends. If the topic holds another command at the
    chain's last one, positions were used again and nobody has noticed: nothing is written.
A4. A new history of the same topic begins behind the last command that it has in common with the
    chain before it. That one is looked for first. In a new topic it begins where the topic does.
A5. If the topic's begin lies beyond that, commands are lost. The archiver stops, and says which;
    with `accepts_hole` it writes a manifest that says so, and goes on.
A6. Otherwise the commands up to the watermark are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mirrorlog.archive.chains import Chain, StoredManifest
from mirrorlog.domain.histories import History
from mirrorlog.errors import MirrorlogError, OutOfRetention, StateDamaged, WrongCluster
from mirrorlog.tracking_log.heads import Watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveView:
    """What is known of one partition of the commands topic, and of its archive.

    cluster, topic: the ids of the cluster and of the commands topic now.
    first_kept: the oldest position that the topic keeps.
    watermark: the newest of the log, read before the topic was asked; None if there is none.
    break_reason: what shows that the history ended (tracking_log.breaks); None if nothing does.
    chains: of the partition, by epoch; of each at least the last manifest.
    last_is_same: whether the topic holds the archived command at the last position of the
        watermark's chain. None: the topic no longer keeps it, or there is none.
    common_through: through which position the topic holds the same commands as the chain before;
        None if that wasn't looked for.
    """

    partition: int
    cluster: str | None
    topic: str | None
    first_kept: int
    watermark: Watermark | None
    break_reason: str | None
    chains: Sequence[Chain]
    last_is_same: bool | None = None
    common_through: int | None = None

    @property
    def chain(self) -> Chain | None:
        """The chain of the watermark's history; None if there is none."""
        history = self.watermark.history if self.watermark else None
        return None if history is None else chain_of(self.chains, history)

    def goes_on(self, history: History) -> bool:
        """Return whether the log still records in a history, and nothing shows that it ended."""
        now = self.watermark.history if self.watermark else None
        return (
            now is not None
            and (now.epoch, now.id) == (history.epoch, history.id)
            and self.break_reason is None
            and self.last_is_same is not False
        )


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done now. is_complete: all that may be archived is."""

    reason: str
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing may be written: `error` says why."""

    error: MirrorlogError


@dataclass(frozen=True, slots=True)
class FindCommon:
    """It must be known first what the topic has in common with the chains before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCommands:
    """The commands in `(after, through]` are to be written. previous: the manifest before them."""

    history: History
    previous: StoredManifest | None
    after: int
    through: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteHole:
    """A manifest says that the commands in `(after, through]` are missing. previous: as above."""

    history: History
    previous: StoredManifest | None
    after: int
    through: int
    reason: str


ArchiveStep: TypeAlias = Wait | Refuse | FindCommon | WriteCommands | WriteHole


def chain_of(chains: Sequence[Chain], history: History) -> Chain | None:
    """Return the chain of a history; None if there is none."""
    wanted = (history.epoch, history.id)
    return next(
        (chain for chain in chains if (chain.history.epoch, chain.history.id) == wanted), None
    )


def next_archive_step(view: ArchiveView, *, accepts_hole: bool = False) -> ArchiveStep:
    """Return what is to be done next, by the rules A1 to A6."""
    watermark = view.watermark
    if watermark is None or watermark.history is None:
        return Wait("the node has recorded nothing of the partition yet")
    if view.break_reason is not None:
        return Wait(f"the history ended, and the node hasn't renewed it yet: {view.break_reason}")
    for chain in view.chains:
        if None not in (chain.history.cluster, view.cluster) and (
            chain.history.cluster != view.cluster
        ):
            return Refuse(_other_cluster(view, chain))
    own = view.chain
    if own is not None:
        if view.last_is_same is False:
            return Refuse(_used_again(view, own))
        return _go_on(view, watermark, own.stored[-1], own.through, accepts_hole)
    earlier = [chain for chain in view.chains if chain.history.topic == view.topic]
    if not earlier:
        return _go_on(view, watermark, None, view.first_kept - 1, accepts_hole)
    if view.common_through is None:
        return FindCommon()
    return _go_on(view, watermark, None, view.common_through, accepts_hole)


def _go_on(
    view: ArchiveView,
    watermark: Watermark,
    previous: StoredManifest | None,
    after: int,
    accepts_hole: bool,
) -> ArchiveStep:
    assert watermark.history is not None
    if after + 1 < view.first_kept:
        if not accepts_hole:
            return Refuse(_lost(view, after))
        return WriteHole(
            history=watermark.history,
            previous=previous,
            after=after,
            through=view.first_kept - 1,
            reason="Kafka had dropped the commands before they were archived",
        )
    if watermark.through <= after:
        return Wait("everything that the node has recorded is archived", is_complete=True)
    return WriteCommands(
        history=watermark.history, previous=previous, after=after, through=watermark.through
    )


def _lost(view: ArchiveView, after: int) -> MirrorlogError:
    return OutOfRetention(
        f"Kafka has dropped the commands at positions {after + 1} to {view.first_kept - 1}, which "
        "aren't archived",
        where=f"partition {view.partition}",
        next="Find out what lowered the retention of the commands topic. Then run "
        "`mirrorlog archive run --accept-hole`: the archive goes on, and says what is missing.",
    )


def _used_again(view: ArchiveView, chain: Chain) -> MirrorlogError:
    position = chain.last.last.position if chain.last.last else chain.through
    return StateDamaged(
        f"position {position} holds another command than the archived one, and "
        "the log still names the same history",
        where=f"partition {view.partition}",
        next="Restart the node: it finds that the commands topic went back, and renews the "
        "history. Nothing was written.",
    )


def _other_cluster(view: ArchiveView, chain: Chain) -> MirrorlogError:
    return WrongCluster(
        f"the archive is of Kafka cluster {chain.history.cluster}, and this is {view.cluster}",
        where=f"partition {view.partition}",
        next="Give each cluster an archive of its own.",
    )


def deletable_before(view: ArchiveView, *, archived_through: int, kept_from: int) -> int | None:
    """Return the position below which the topic's commands may be deleted; None: nothing may be.

    archived_through: through which position the chain of the watermark's history holds the
        commands, and it must be durable. kept_from: the first position that the retention keeps.
    Neither what isn't archived nor what isn't recorded in the log is deleted, whatever its age.
    """
    if view.watermark is None or view.break_reason is not None or view.last_is_same is False:
        return None
    before = min(archived_through, view.watermark.through, kept_from - 1) + 1
    return before if before > view.first_kept else None
