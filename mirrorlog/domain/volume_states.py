"""The states of a volume, and the effect of each kind of command in each state.

| command                               | ACTIVE   | RETIRED              | UNKNOWN  |
|---------------------------------------|----------|----------------------|----------|
| WRITES, MARK_DIRTY, RAW, SESSION_OPEN | recorded | recorded and flagged | recorded |
| HEARTBEAT, SESSION_CLOSE, BARRIER     | recorded | recorded             | recorded |
| RESIZE                                | grows    | refused              | refused  |
| RETIRE                                | RETIRED  | recorded             | refused  |
| NEW_GENERATION                        | renewed  | refused              | refused  |
| PROMOTE                               | promoted | refused              | refused  |
| UNKNOWN                               | refused  | refused              | refused  |

Rules:
- The extents of a command are recorded in every state, even if it is refused (invariant 11).
- A grown region is dirty (invariant 1): from the volume's size before the command to the new size,
  whatever the sender knew.
- Positions decide, never the order of reading (invariant 10). A command at or below the position
  of the description is part of it already and changes nothing. The state and the size that the
  volume had at its position decide the answer. So a replay gives the same answers and undoes
  nothing newer.
- A volume only grows, and a retired volume stays retired.
- A PROMOTE names the generation that it ends. It is refused if the volume had another one at its
  position: of two promotions at once, the one with the lower position wins (docs/decisions/
  failing-over.md). It continues the log, unless nobody knows where the copies parted.
- A change is refused if the description wouldn't fit into a message with it.
- UNKNOWN is a state that a newer mirrorlog wrote: this version doesn't change the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final
from uuid import UUID, uuid5

from mirrorlog.domain.commands import CommandKind, Refusal, RejectReason, TrackingCommand
from mirrorlog.domain.extents import MAX_BYTE, Extent
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.promotions import MAX_PROMOTIONS, Promotion, PromotionCommand
from mirrorlog.domain.site_progress import check_site_name
from mirrorlog.domain.volumes import (
    DESCRIPTION_MAX_BYTES,
    MAX_BLOCKS,
    MAX_RESIZES,
    EarlierSize,
    Volume,
    VolumeState,
)
from mirrorlog.errors import BadUse

DESCRIPTION_KINDS: Final = (
    CommandKind.RESIZE,
    CommandKind.RETIRE,
    CommandKind.NEW_GENERATION,
    CommandKind.PROMOTE,
)
"""The kinds of command that change a volume's description."""


class Effect(Enum):
    """The effect of a command on its volume, beside that it is recorded."""

    NONE = auto()
    FLAG = auto()
    GROW = auto()
    RETIRE = auto()
    RENEW = auto()
    PROMOTE = auto()
    REFUSE_RETIRED = auto()
    REFUSE_STATE = auto()
    REFUSE_KIND = auto()


_SAME: Final[Mapping[CommandKind, Effect]] = {
    CommandKind.WRITES: Effect.NONE,
    CommandKind.MARK_DIRTY: Effect.NONE,
    CommandKind.RAW: Effect.NONE,
    CommandKind.SESSION_OPEN: Effect.NONE,
    CommandKind.SESSION_CLOSE: Effect.NONE,
    CommandKind.HEARTBEAT: Effect.NONE,
    CommandKind.BARRIER: Effect.NONE,
    CommandKind.UNKNOWN: Effect.REFUSE_KIND,
}
_FLAGGED: Final = (
    CommandKind.WRITES,
    CommandKind.MARK_DIRTY,
    CommandKind.RAW,
    CommandKind.SESSION_OPEN,
)

TABLE: Final[Mapping[VolumeState, Mapping[CommandKind, Effect]]] = {
    VolumeState.ACTIVE: {
        **_SAME,
        CommandKind.RESIZE: Effect.GROW,
        CommandKind.RETIRE: Effect.RETIRE,
        CommandKind.NEW_GENERATION: Effect.RENEW,
        CommandKind.PROMOTE: Effect.PROMOTE,
    },
    VolumeState.RETIRED: {
        **_SAME,
        **dict.fromkeys(_FLAGGED, Effect.FLAG),
        CommandKind.RESIZE: Effect.REFUSE_RETIRED,
        CommandKind.RETIRE: Effect.NONE,
        CommandKind.NEW_GENERATION: Effect.REFUSE_RETIRED,
        CommandKind.PROMOTE: Effect.REFUSE_RETIRED,
    },
    VolumeState.UNKNOWN: {**_SAME, **dict.fromkeys(DESCRIPTION_KINDS, Effect.REFUSE_STATE)},
}


@dataclass(frozen=True, slots=True)
class Transition:
    """The result of a command.

    volume: the description behind the command; the same object if nothing changes.
    remark: text for the status of a command that is recorded.
    """

    volume: Volume
    remark: str = ""
    refusal: Refusal | None = None


def transition(volume: Volume, command: TrackingCommand, position: int) -> Transition:
    """Return the effect of `command`, which is at `position`, on `volume`.

    volume: the volume's description, from before or after the command.
    """
    match TABLE[state_before(volume, position)][command.kind]:
        case Effect.NONE:
            return Transition(volume)
        case Effect.FLAG:
            return Transition(
                volume,
                f"recorded, though the volume was retired at position {volume.described_position}",
            )
        case Effect.GROW:
            return _grow(volume, command, position)
        case Effect.RETIRE:
            return _change(volume, position, state=VolumeState.RETIRED)
        case Effect.RENEW:
            return _renew(volume, command, position)
        case Effect.PROMOTE:
            return _promote(volume, command, position)
        case Effect.REFUSE_RETIRED:
            text = (
                f"the volume was retired at position {volume.described_position}. Create a new one."
            )
            return _refuse(volume, RejectReason.VOLUME_RETIRED, text)
        case Effect.REFUSE_STATE:
            text = (
                "the volume is in a state that this node doesn't know. Upgrade the node, "
                "then send it again."
            )
            return _refuse(volume, RejectReason.UNKNOWN_STATE, text)
        case Effect.REFUSE_KIND:
            text = (
                "the command's kind is unknown to this node; its extents are recorded. "
                "Upgrade the node."
            )
            return _refuse(volume, RejectReason.UNKNOWN_KIND, text)


def apply(volume: Volume, command: TrackingCommand, position: int) -> Volume:
    """Return the volume's description behind the command."""
    return transition(volume, command, position).volume


def state_before(volume: Volume, position: int) -> VolumeState:
    """Return the volume's state before the command at `position`."""
    if volume.is_retired and position <= volume.described_position:
        return VolumeState.ACTIVE
    return volume.state


def grown_extents(volume: Volume, command: TrackingCommand, position: int) -> list[Extent]:
    """Return the extent by which a RESIZE at `position` grew the volume; no extent otherwise.

    volume: its description after the command, or a later one.
    """
    before, now = volume.size_at(position - 1), volume.size_at(position)
    return (
        [Extent(before, now - before)]
        if command.kind is CommandKind.RESIZE and now > before
        else []
    )


def _grow(volume: Volume, command: TrackingCommand, position: int) -> Transition:
    before, wanted = volume.size_at(position - 1), command.size_bytes
    if not 0 < wanted <= MAX_BYTE:
        text = f"{wanted} bytes can't be a volume's size. Send one from 1 B to 8 EiB."
        return _refuse(volume, RejectReason.MALFORMED_COMMAND, text)
    if wanted > before:
        if len(volume.earlier_sizes) >= MAX_RESIZES and position > volume.described_position:
            text = f"the volume was resized {MAX_RESIZES} times already. Create a new one."
            return _refuse(volume, RejectReason.DESCRIPTION_TOO_LARGE, text)
        if wanted > MAX_BLOCKS * volume.block_size and position > volume.described_position:
            text = (
                f"{wanted} bytes are too many blocks of {volume.block_size} bytes to be tracked: "
                f"{MAX_BLOCKS} are possible. Create a volume with larger blocks."
            )
            return _refuse(volume, RejectReason.MALFORMED_COMMAND, text)
        earlier = (*volume.earlier_sizes, EarlierSize(before_position=position, size_bytes=before))
        return _change(volume, position, size_bytes=wanted, earlier_sizes=earlier)
    if wanted < before and not any(extent.end == wanted for extent in command.extents):
        text = (
            f"the volume has {before} bytes and can't be made smaller, to {wanted}: its "
            "secondaries and backups may hold what would be cut off. Create a smaller volume, "
            "copy what is to stay, and retire this one."
        )
        return _refuse(volume, RejectReason.SHRINKING, text)
    # Another RESIZE came first. The sender knew a smaller volume and wanted to grow it.
    return Transition(volume, f"the volume has {before} bytes already")


def _renew(volume: Volume, command: TrackingCommand, position: int) -> Transition:
    generation = command.new_generation or ""
    if not _is_uuid(generation):
        text = f"'{generation[:60]}' can't be a generation. Send a new UUID in its canonical form."
        return _refuse(volume, RejectReason.MALFORMED_COMMAND, text)
    if volume.epoch > 1 and command.generation != volume.generation:
        # The sender knew another generation, maybe one of an earlier history whose commands are
        # folded again. The one that it asks for may then have been in use.
        generation = str(uuid5(UUID(volume.history_id), generation))
    if generation == volume.generation:
        return Transition(volume)
    return _change(
        volume,
        position,
        generation=generation,
        origin_position=position,
        initially_zeroed=False,
        created_at_us=command.last_at_us,
        first_created_at_us=volume.born_at_us,
        recorded_since_us=None,
        log_generation=None,
        promotions=(),
    )


def _promote(volume: Volume, command: TrackingCommand, position: int) -> Transition:
    if not isinstance(command, PromotionCommand):
        text = "a PROMOTE without its fields is none. Use `mirrorlog promote`."
        return _refuse(volume, RejectReason.MALFORMED_COMMAND, text)
    if any(promotion.position == position for promotion in volume.promotions):
        return Transition(volume)
    known = _generation_before(volume, position)
    if command.generation != known:
        text = (
            f"the volume has generation {known}, and not {command.generation} any more: another "
            "promotion or a renewal came first. Look at the volume again."
        )
        return _refuse(volume, RejectReason.OTHER_GENERATION, text)
    impossible = _impossible_promotion(volume, command, position)
    if impossible is not None:
        return _refuse(volume, RejectReason.MALFORMED_COMMAND, impossible)
    promotion = Promotion(
        position=position,
        site=command.site,
        parted_position=command.parted_position,
        former_generation=volume.generation,
        former_primary=volume.primary,
        former_primary_id=volume.primary_id,
        former_site=volume.primary_site,
        at_us=command.last_at_us,
    )
    changes: dict[str, object] = {"log_generation": volume.generation_of_log}
    if command.parted_position is None:
        # Nobody knows what the new primary holds beside what the log names: the log begins anew.
        changes = {
            "log_generation": None,
            "origin_position": position,
            "initially_zeroed": False,
            "created_at_us": command.last_at_us,
            "first_created_at_us": volume.born_at_us,
            "recorded_since_us": None,
        }
    return _change(
        volume,
        position,
        generation=command.new_generation,
        primary=command.primary,
        primary_site=command.site,
        primary_id=command.primary_id,
        promotions=(*volume.promotions, promotion)[-MAX_PROMOTIONS:],
        **changes,
    )


def _generation_before(volume: Volume, position: int) -> str:
    """Return the generation that the volume had before the command at `position`."""
    later = (promotion for promotion in volume.promotions if promotion.position >= position)
    following = next(later, None)
    return volume.generation if following is None else following.former_generation


def _impossible_promotion(volume: Volume, command: PromotionCommand, position: int) -> str | None:
    """Return why a promotion can't be; None if it can."""
    if not _is_uuid(command.new_generation or "") or not _is_uuid(command.primary_id):
        return "its new generation or the id of its primary is no UUID in canonical form."
    try:
        check_site_name(command.site)
    except BadUse as error:
        return f"{error.what}."
    if command.site == volume.primary_site and position > volume.described_position:
        return f"the secondary of site {command.site} is the primary already."
    parted = command.parted_position
    if not command.primary or (parted is not None and not BEFORE_FIRST <= parted < position):
        return "it names no primary, or copies that part behind the command."
    return None


def _change(volume: Volume, position: int, **changes: object) -> Transition:
    """Change the description by the command at `position`, unless it is part of it already."""
    if position <= volume.described_position:
        return Transition(volume)
    changed = replace(volume, described_position=position, **changes)  # type: ignore[arg-type]
    if changed.description_bytes > DESCRIPTION_MAX_BYTES:
        text = (
            f"the volume's description takes {changed.description_bytes} bytes, and a message "
            f"takes {DESCRIPTION_MAX_BYTES}. Describe the volume with shorter addresses."
        )
        return _refuse(volume, RejectReason.DESCRIPTION_TOO_LARGE, text)
    return Transition(changed)


def _refuse(volume: Volume, reason: RejectReason, text: str) -> Transition:
    return Transition(volume, refusal=Refusal(reason, text))


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
