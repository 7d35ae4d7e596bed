"""Response: each event is decoded and checked, and gets one status. Pure.

    event ──read_command──▶ Refusal           the bytes can't be decoded
                         └▶ TrackingCommand ──check_command──▶ CommandResponse

A CommandResponse says what is recorded, what is refused (whole or in part), and whether the command
is forwarded to another partition. A refused event is kept in quarantine with its bytes. Nothing
that can be an address of the volume is refused (invariant 11).

check_command leads on to the next stage, extraction: `extract` in mirrorlog/domain/extraction.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    Quarantined,
    Refusal,
    RejectReason,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.extents import Extent, ExtentColumns
from mirrorlog.domain.extraction import (
    CommandExtents,
    CommandForks,
    Extraction,
    command_extents,
    command_forks,
    extract,
)
from mirrorlog.domain.volume_states import DESCRIPTION_KINDS, Transition, transition
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.session_order import SessionOrder
from mirrorlog.topics import (
    MESSAGE_MAX_BYTES,
    QUARANTINED_KEY_MAX_BYTES,
    QUARANTINED_VALUE_MAX_BYTES,
)

NAME_MAX_CHARACTERS: Final = 255
"""The longest name of a volume, generation, host or session that the log and the statuses hold."""
TEXT_MAX_CHARACTERS: Final = 4000
"""The longest text of a status."""
_NO_EXTENTS: Final = ExtentColumns.of([])


@dataclass(frozen=True, slots=True)
class CommandResponse:
    """The node's response to one event.

    command: None if the event can't be decoded.
    refusal: why the event, or a part of it, is refused.
    volume: the volume that records the command, as of its position. None: nothing is recorded.
    extents: the extents to fold, clipped to the volume.
    forks: which of the extents each forked secondary has missed.
    remark: the text of the status if nothing is refused.
    forward_to: the volume, if its commands don't belong into the event's partition.
    depends_on_description: a newer description of the volume could change the response. The caller
    looks for one before it lets anything be refused, or changes the description.
    new_description: the volume as this command changed it. It must be published before the command
    is recorded.
    is_authentic: the sender may touch the volume, or the session. If not, nothing counts but the
    extents, and these only as dirty.
    """

    message: Message
    command: TrackingCommand | None
    refusal: Refusal | None
    volume: Volume | None = None
    extents: ExtentColumns = field(default=_NO_EXTENTS)
    forks: CommandForks = field(default_factory=CommandForks)
    remark: str = ""
    forward_to: Volume | None = None
    depends_on_description: bool = False
    new_description: Volume | None = None
    is_authentic: bool = True

    def status(self, now_us: int, order: SessionOrder) -> CommandStatus:
        """Return the reply. A refusal takes precedence over how the command continues its session.

        now_us: the node's time, microseconds since 1970. order: from session_order.
        """
        command, refusal = self.command, self.refusal
        text = refusal.text if refusal else self.remark
        return CommandStatus(
            partition=self.message.partition,
            position=self.message.position,
            code=order.code if refusal is None else StatusCode.REJECTED,
            reason=None if refusal is None else refusal.reason.value,
            text="; ".join(filter(None, (order.text, text)))[:TEXT_MAX_CHARACTERS],
            at_us=now_us,
            volume=command.volume if command else None,
            host=command.host if command else None,
            session=command.session if command else None,
            sequence=command.sequence if command else None,
        )

    def missed_by(self, site: str) -> ExtentColumns:
        """Return those of the extents to fold that the site's secondary has missed."""
        return self.forks.missed_by(site, self.extents)

    def quarantined(self, now_us: int) -> Quarantined | None:
        """Return the event with its bytes for the quarantine, None if nothing is refused.

        A key or a value that is too large for a message of the quarantine is kept in part, with the
        length and the digest of the whole. Kafka limits only what an event takes when it is
        compressed.
        """
        if self.refusal is None:
            return None
        message = self.message
        key = _KeptBytes.of(message.key, QUARANTINED_KEY_MAX_BYTES)
        value = _KeptBytes.of(message.value, QUARANTINED_VALUE_MAX_BYTES)
        return Quarantined(
            partition=message.partition,
            position=message.position,
            reason=self.refusal.reason.value,
            text=self.refusal.text[:TEXT_MAX_CHARACTERS],
            at_us=now_us,
            key=key.kept,
            value=value.kept,
            key_length=key.whole_length,
            key_sha256=key.whole_sha256,
            value_length=value.whole_length,
            value_sha256=value.whole_sha256,
        )

    def forwarded(self) -> tuple[int, Message] | None:
        """Return the message for another partition and its number, None if there is none.

        A command that is too large for a message there is made smaller: it names the whole volume
        instead of its extents. Nobody sends such a command but a client that compresses more than a
        megabyte and has a wrong partitioner, too.

        The position that a command names as acknowledged is one of the partition to which it was
        sent. It would mean another command there, so it is left out.
        """
        message, command, volume = self.message, self.command, self.forward_to
        if command is None or volume is None:
            return None
        if command.acknowledged_position is not None:
            command = replace(command, acknowledged_position=None)
            message = replace(message, value=encode(command))
        if message.size_bytes <= MESSAGE_MAX_BYTES:
            return volume.partition, message
        smaller = replace(
            command,
            extents=ExtentColumns.of([Extent(0, volume.size_bytes)]),
            raw=(),
            forks=(),
            note=command.note and command.note[:NAME_MAX_CHARACTERS],
            new_generation=command.new_generation and command.new_generation[:NAME_MAX_CHARACTERS],
        )
        return volume.partition, replace(message, key=volume.volume.encode(), value=encode(smaller))


@dataclass(frozen=True, slots=True)
class _KeptBytes:
    """The bytes of a key or value that the quarantine keeps.

    whole_length, whole_sha256: of all bytes; None if all of them are kept.
    """

    kept: bytes | None
    whole_length: int | None = None
    whole_sha256: bytes | None = None

    @classmethod
    def of(cls, whole: bytes | None, max_bytes: int) -> _KeptBytes:
        if whole is None or len(whole) <= max_bytes:
            return cls(whole)
        return cls(whole[:max_bytes], len(whole), sha256(whole).digest())


def read_command(message: Message) -> TrackingCommand | Refusal:
    """Return the command in an event's bytes, or why they aren't one.

    Names longer than NAME_MAX_CHARACTERS are cut: they go into the log and the replies. The
    command's addresses are kept (invariant 11).
    """
    if message.value is None:
        return Refusal(
            RejectReason.UNDECODABLE, "the event has no value: tombstones aren't tracking commands"
        )
    try:
        command = decode(message.value, TrackingCommand)
    except BadInput as error:
        return Refusal(RejectReason.UNDECODABLE, str(error))
    return replace(
        command,
        volume=command.volume[:NAME_MAX_CHARACTERS],
        generation=command.generation[:NAME_MAX_CHARACTERS],
        host=command.host[:NAME_MAX_CHARACTERS],
        session=command.session[:NAME_MAX_CHARACTERS],
    )


def check_command(
    message: Message,
    command: TrackingCommand | Refusal,
    volume: Volume | None,
    objection: str | None = None,
) -> CommandResponse:
    """Return what the node does with an event.

    command: from read_command.
    volume: the newest description of the volume that the command names, None if there is none.
    objection: why the command isn't authentic (authenticity.py); None if it is, or needn't be.

    The command's extents pass `extract` (mirrorlog/domain/extraction.py). plan_flush takes the
    response next (flush_plan.py).
    """
    if isinstance(command, Refusal):
        return CommandResponse(message, None, command)
    if is_session_wide(command):
        refusal = None if objection is None else Refusal(RejectReason.NOT_AUTHENTIC, objection)
        return CommandResponse(message, command, refusal, is_authentic=refusal is None)
    if volume is None:
        text = f"there is no volume '{command.volume}'. Create it first."
        refusal = Refusal(RejectReason.UNKNOWN_VOLUME, text)
        return CommandResponse(message, command, refusal, depends_on_description=True)
    if volume.partition != message.partition:
        remark = (
            f"it belongs to partition {volume.partition} and was forwarded there; "
            "set the host's partitioner right."
        )
        return CommandResponse(message, command, None, remark=remark, forward_to=volume)
    if objection is not None:
        return _check_unauthentic(message, command, volume, objection)
    return _check_known_volume(message, command, volume)


def _check_unauthentic(
    message: Message, command: TrackingCommand, described: Volume, objection: str
) -> CommandResponse:
    """Return the response to a command of whoever may not touch the volume: all is refused.

    Its addresses count as dirty, and never as zero (invariant 11): a host of the volume may have
    sent it, with a key that the node doesn't have.
    """
    volume = described.as_of(message.position)
    extents = extract(command_extents(command, volume, message.position).extents, volume).extents
    dirty = ExtentColumns(extents.offsets, extents.lengths)
    text = f"{objection}. " + ("Its addresses count as dirty." if len(dirty) else "")
    return CommandResponse(
        message,
        command,
        Refusal(RejectReason.NOT_AUTHENTIC, text.strip()),
        volume,
        dirty,
        depends_on_description=True,
        is_authentic=False,
    )


def _check_known_volume(
    message: Message, command: TrackingCommand, described: Volume
) -> CommandResponse:
    """Return the response to a command of a volume of this partition.

    The command is judged by the volume as it was at the command's position, so a replay gives the
    same response. A refusal of one part doesn't keep the other parts from being recorded.
    """
    change = _sent_again(described, command, message.position) or transition(
        described, command, message.position
    )
    volume = change.volume.as_of(message.position)
    named = command_extents(command, volume, message.position)
    extraction = extract(named.extents, volume)
    extents = extraction.extents
    if command.kind not in (CommandKind.WRITES, CommandKind.RAW):
        # A range that may differ isn't known to be zero.
        extents = ExtentColumns(extents.offsets, extents.lengths)
    refusal = change.refusal or _extents_refusal(named, extraction)
    forks = command_forks(command, is_whole=refusal is None)
    if refusal is None and forks.malformed:
        text = f"{forks.malformed}; the extents are recorded as missed by every fork"
        refusal = Refusal(RejectReason.MALFORMED_COMMAND, text)
    is_new = change.volume.described_position == message.position
    return CommandResponse(
        message,
        command,
        refusal,
        volume,
        extents,
        forks,
        remark="; ".join(_remarks(command, volume, change.remark, named)),
        depends_on_description=extraction.objection is not None
        or command.kind in DESCRIPTION_KINDS,
        new_description=change.volume if is_new else None,
    )


def _sent_again(described: Volume, command: TrackingCommand, position: int) -> Transition | None:
    """Refuse a renewal that ends a generation which the volume no longer has.

    Whoever may read an authenticated volume's commands may send their bytes again.
    """
    if (
        command.kind is not CommandKind.NEW_GENERATION
        or not described.is_authenticated_at(position)
        or position <= described.described_position
        or command.generation == described.generation
    ):
        return None
    text = (
        f"the volume has generation {described.generation}, and not {command.generation} any more. "
        "Look at the volume again."
    )
    return Transition(described, refusal=Refusal(RejectReason.OTHER_GENERATION, text))


def _extents_refusal(named: CommandExtents, extraction: Extraction) -> Refusal | None:
    if named.malformed:
        text = f"{named.malformed}; the rest is recorded"
        return Refusal(RejectReason.MALFORMED_COMMAND, text)
    if extraction.objection is not None:
        return Refusal(RejectReason.OUT_OF_RANGE, extraction.objection)
    return None


def _remarks(
    command: TrackingCommand, volume: Volume, change_remark: str, named: CommandExtents
) -> list[str]:
    remarks = [change_remark] if change_remark else []
    if command.generation != volume.generation:
        remarks.append(f"recorded, though it names generation {command.generation}")
    if named.remark:
        remarks.append(f"the whole volume was made dirty: {named.remark}")
    return remarks


def is_session_wide(command: TrackingCommand) -> bool:
    """Return whether the command names no volume and concerns all volumes of its session here."""
    return not command.volume and command.kind in (CommandKind.HEARTBEAT, CommandKind.SESSION_CLOSE)
