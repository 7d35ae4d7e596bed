"""The decision whether a secondary that a site meets is the one that the saved state is about.

`meet` is a pure function of the saved state and of what was found. Its table, first row that fits:

    the secondary is the primary, or lies on it                 REFUSE
    it was the volume's primary before a promotion              REFUSE_FORMER
    it is marked as a primary, of any volume                    REFUSE
    nothing there    it should be a seed                        REFUSE
                     nothing saved, and no mark                 CREATE
                     otherwise                                  REFUSE
    a damaged mark, or one of another site or volume            REFUSE
    shorter than     never used                                 FIRST_USE, which grows it
    the volume       as it was met last                         GROW
                     otherwise                                  REFUSE_AND_FORGET
    nothing saved    never used                                 FIRST_USE
                     otherwise                                  START_OVER
    saved by an      no mark, or one that no cycle knows        ADOPT
    older release    otherwise                                  START_OVER
    no mark, another id, another device                         START_OVER
    epoch of the     that of the state                          SAME
    mark             the next one                               RESUME
                     any other                                  START_OVER

"Never used" means: nothing is saved, no state was damaged, no cycle has marked it, and all of it
reads as zeros. "As it was met last" means: the row of its identity says SAME, and its size is the
saved one. So a volume that grew by RESIZE grows its secondary, and nothing else does.

The epoch counts cycles, and the chunks of a copy of everything (restoration.py). Mark and state
move together, in this order:

1. The mark gets the epoch E + 1, durably. The state still has E.
2. The state is saved with E + 1 and as inconsistent (cycle_through).
3. Blocks are written, then flushed.
4. The state is saved with the new position, and E + 1.

The first cycle of a new secondary, if it follows at once, has the epoch 0 of the new mark: step 1
was to write that mark. Nothing was written under it before, and no state names it before step 2. A
crash between the two leaves a secondary that was never used.

After a chunk that is durable, the mark is written first, too, and the state says then with the same
epoch how far the copy is.

A site that finds the mark one epoch ahead died between 1 and 2, or its state folder is one cycle
old: whatever that cycle or chunk wrote is written again by a cycle that begins at the saved
position, or goes on at the saved byte (RESUME). A mark that is further ahead means that the state
folder is older than the secondary, and a mark that is behind means that the secondary went back.
Nothing is known then.

A new mark is written before the state that names it (steps: mark with epoch 0, then state). A crash
between the two leaves a mark that no state names, with epoch 0: nothing was written under it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from mirrorlog.consumers.resync.secondaries import FoundDevice, FoundSecondary
from mirrorlog.consumers.state.secondary_state import SecondaryIdentity, SecondaryState
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume


class MeetingStep(Enum):
    """What a site does with a secondary that it has met."""

    SAME = auto()  # the state is about this secondary: go on
    RESUME = auto()  # the same, but a cycle may have begun that the state doesn't know
    GROW = auto()  # the same, and the volume has grown: make it as large as the volume
    ADOPT = auto()  # the state is of a release without marks: mark the secondary, and go on
    CREATE = auto()  # create it, then mark it
    FIRST_USE = auto()  # it is there and was never used: grow it if needed, then mark it
    START_OVER = auto()  # nothing is known of its contents: a new mark, and a copy of everything
    REFUSE = auto()  # leave it alone, and report why
    REFUSE_FORMER = auto()  # the same; it may rejoin
    REFUSE_AND_FORGET = auto()  # the same, and nothing is known of its contents from now on


@dataclass(frozen=True, slots=True)
class Meeting:
    """The step to take. reason and next: for people; empty where there is nothing to say."""

    step: MeetingStep
    reason: str = ""
    next: str = ""


_GONE = (
    "Mount its file system, or put the secondary back. If it is lost for good: stop the site, and "
    "remove the secondary's mark and its state in the folder of the site. The site then copies "
    "everything."
)
_NO_SEED = (
    "there is no seed at the secondary's place",
    "Put the copy there, or mount its file system. Without --from-seed for this volume, the site "
    "creates the secondary and copies everything.",
)


def meet(
    mark_of: SecondaryMark,
    volume: Volume,
    saved: SecondaryState | None,
    present: FoundSecondary,
    *,
    primary: FoundDevice | None,
    is_state_damaged: bool,
    has_seed: bool = False,
) -> Meeting:
    """Return what to do with the secondary that was found.

    mark_of: any mark of this site and volume; only its names count.
    saved: the saved state; None if there is none, or if it is damaged (`is_state_damaged`).
    primary: the volume's primary; None if it wasn't looked for, or can't be opened from here.
    has_seed: an operator says that a copy was put there by other means.
    """
    device, mark = present.device, present.mark
    if device is not None and primary is not None and device.identity.overlaps(primary.identity):
        return Meeting(
            MeetingStep.REFUSE,
            "the secondary is the volume's primary, or lies on the same storage",
            "Give the secondary a file or device of its own.",
        )
    if present.primary_of == volume.volume and volume.promotions:
        return Meeting(
            MeetingStep.REFUSE_FORMER,
            "it was the primary before a promotion, and its host may have written to it since",
            f"`mirrorlog divergence {volume.volume}` lists what. `mirrorlog rejoin "
            f"{volume.volume}` lets it follow the new primary.",
        )
    if present.primary_of is not None:
        return Meeting(
            MeetingStep.REFUSE,
            f"the secondary is marked as the primary of volume {present.primary_of}",
            "Give the secondary a file or device of its own. If that volume is gone for good, "
            "remove the mark (.NAME.mirrorlog-primary) beside it.",
        )
    was_used = saved is not None or is_state_damaged or mark is not None
    if device is None and not was_used and present.mark_damage is None:
        return Meeting(MeetingStep.REFUSE, *_NO_SEED) if has_seed else Meeting(MeetingStep.CREATE)
    if device is None:
        return Meeting(MeetingStep.REFUSE, "the secondary is gone", _GONE)
    if present.mark_damage is not None:
        return Meeting(MeetingStep.REFUSE, present.mark_damage)
    if mark is not None and (mark.site, mark.volume) != (mark_of.site, mark_of.volume):
        return Meeting(
            MeetingStep.REFUSE,
            f"the secondary is marked as the one of volume {mark.volume} at site {mark.site}",
            "Give each secondary a file or device of its own. If the other one is gone for good "
            "and this may be overwritten, remove the mark beside it.",
        )
    is_new = saved is None and not is_state_damaged and (mark is None or mark.epoch == 0)
    never_used = is_new and device.is_zeroed
    known = _meet_known(saved, present, mark)
    if device.size_bytes < volume.size_bytes:
        return _meet_short(volume, saved, device.size_bytes, known, never_used=never_used)
    if never_used:
        return Meeting(MeetingStep.FIRST_USE)
    return known


def _meet_short(
    volume: Volume,
    saved: SecondaryState | None,
    size_bytes: int,
    known: Meeting,
    *,
    never_used: bool,
) -> Meeting:
    """Return what to do with a secondary that is smaller than its volume."""
    if never_used:
        return Meeting(MeetingStep.FIRST_USE)
    if (
        known.step is MeetingStep.SAME
        and saved is not None
        and saved.identity is not None
        and saved.identity.size_bytes == size_bytes
    ):
        return Meeting(MeetingStep.GROW)
    return Meeting(
        MeetingStep.REFUSE_AND_FORGET,
        f"the secondary has {size_bytes} bytes, the volume {volume.size_bytes}: it was cut off, or "
        "it is another one",
        f"Nothing is grown that was used. If it may be overwritten, make it {volume.size_bytes} "
        "bytes long (truncate -s, lvextend): the site then copies everything.",
    )


def _meet_known(
    saved: SecondaryState | None, present: FoundSecondary, mark: SecondaryMark | None
) -> Meeting:
    """Return what to do with a secondary as large as its volume, by its identity alone."""
    identity = None if saved is None else saved.identity
    if saved is None:
        return _start_over("nothing is known of the secondary's contents")
    if identity is None:
        if mark is None or mark.epoch == 0:
            return Meeting(
                MeetingStep.ADOPT,
                "the saved state is of a release that didn't mark secondaries: the secondary is "
                "taken for the same one, and is marked now",
            )
        return _start_over("the saved state is older than the secondary")
    if mark is None:
        return _start_over("the secondary's mark is gone")
    if mark.secondary_id != identity.secondary_id:
        return _start_over("the mark is that of another secondary of this site")
    lasting = None if present.device is None else present.device.identity.lasting
    if lasting != identity.lasting:
        return _start_over(
            f"another file or device is in the secondary's place: it was {identity.lasting}, and "
            f"is {lasting}"
        )
    return _meet_epoch(identity, mark)


def _meet_epoch(identity: SecondaryIdentity, mark: SecondaryMark) -> Meeting:
    if mark.epoch == identity.epoch:
        return Meeting(MeetingStep.SAME)
    if mark.epoch == identity.epoch + 1:
        return Meeting(MeetingStep.RESUME)
    if mark.epoch > identity.epoch:
        return _start_over(
            f"the saved state is older than the secondary: {mark.epoch - identity.epoch} cycles "
            "have written to it that the state doesn't know"
        )
    return _start_over(
        f"the secondary has gone back in time: it lacks {identity.epoch - mark.epoch} cycles "
        "that the saved state knows"
    )


def _start_over(reason: str) -> Meeting:
    return Meeting(MeetingStep.START_OVER, reason)


def resumed(saved: SecondaryState, epoch: int) -> SecondaryState:
    """Return the state after RESUME: a cycle from the saved position may have begun.

    epoch: that of the mark. The state must have an identity.
    """
    assert saved.identity is not None
    identity = replace(saved.identity, epoch=epoch)
    if saved.applied_position is None:
        return replace(saved, identity=identity)
    return replace(
        saved,
        identity=identity,
        consistent_position=None,
        cycle_through=max(saved.applied_position, saved.cycle_through or saved.applied_position),
        rung=saved.rung or Rung.CHANGED,
    )


def forgotten(
    volume: Volume, saved: SecondaryState | None, identity: SecondaryIdentity | None
) -> SecondaryState:
    """Return the state of a secondary of whose contents nothing is known.

    saved: the state before. The generation stays: a newer one isn't followed yet.
    """
    generation = volume.generation if saved is None else saved.generation
    return SecondaryState(volume.volume, generation, identity=identity)
