"""Response: each event is decoded and checked, and gets one status; what is refused is kept with its bytes.

event ──read_command──▶ Refusal                       undecodable
                      └▶ TrackingCommand ──check──▶   accepted, refused in part, refused, or forwarded
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    Quarantined,
    Refusal,
    RejectReason,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.extraction import CommandForks, command_extents, command_forks, extract
from mirrorlog.domain.volume_states import DESCRIPTION_KINDS, transition
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.session_order import SessionOrder

_NO_EXTENTS: Final = ExtentColumns.of([])
_NAME_AT_MOST: Final = 255


@dataclass(frozen=True, slots=True)
class CommandResponse:
    """What becomes of one event.

    volume is None where nothing of it is recorded; extents are those to fold, clipped; forks tells which of them some
    secondaries have already. forward_to names the partition where the volume's commands belong, if it isn't this one.
    described: the volume's description that this command made, to be published before the command is recorded.
    by_description: a newer description of the volume could change the answer: it is looked up before anything is refused.
    """

    message: Message
    command: TrackingCommand | None
    refusal: Refusal | None
    volume: Volume | None = None
    extents: ExtentColumns = field(default=_NO_EXTENTS)
    forks: CommandForks = field(default_factory=CommandForks)
    remark: str = ""
    forward_to: int | None = None
    by_description: bool = False
    described: Volume | None = None

    def status(self, now_us: int, standing: SessionOrder) -> CommandStatus:
        """The reply: a refusal goes before how the command stands in its session."""
        command, refusal = self.command, self.refusal
        return CommandStatus(
            partition=self.message.partition,
            position=self.message.position,
            code=standing.code if refusal is None else StatusCode.REJECTED,
            reason=None if refusal is None else refusal.reason.value,
            text="; ".join(filter(None, (standing.text, refusal.text if refusal else self.remark))),
            at_us=now_us,
            volume=command.volume if command else None,
            host=command.host if command else None,
            session=command.session if command else None,
            sequence=command.sequence if command else None,
        )

    def missed_by(self, site: str) -> ExtentColumns:
        """Those of the extents to fold that the site's secondary has missed."""
        return self.forks.missed_by(site, self.extents)

    def quarantined(self, now_us: int) -> Quarantined | None:
        """The refused event with its bytes; None where nothing is refused."""
        if self.refusal is None:
            return None
        message = self.message
        return Quarantined(
            partition=message.partition,
            position=message.position,
            reason=self.refusal.reason.value,
            text=self.refusal.text,
            at_us=now_us,
            key=message.key,
            value=message.value,
        )


def read_command(message: Message) -> TrackingCommand | Refusal:
    """The command in an event's bytes."""
    if message.value is None:
        return Refusal(
            RejectReason.UNDECODABLE, "the event has no value: tombstones aren't tracking commands"
        )
    try:
        command = decode(message.value, TrackingCommand)
    except BadInput as error:
        return Refusal(RejectReason.UNDECODABLE, str(error))
    # Names go into the log and the replies: an absurd one is cut, its addresses are kept (invariant 11).
    return replace(
        command,
        volume=command.volume[:_NAME_AT_MOST],
        host=command.host[:_NAME_AT_MOST],
        session=command.session[:_NAME_AT_MOST],
    )


def check_command(
    message: Message, command: TrackingCommand | Refusal, volume: Volume | None
) -> CommandResponse:
    """What becomes of a command, `volume` being the newest description of the volume that it names."""
    if isinstance(command, Refusal):
        return CommandResponse(message, None, command)
    if speaks_for_all(command):
        return CommandResponse(message, command, None)
    if volume is None:
        text = f"there is no volume '{command.volume}'. Create it first."
        return CommandResponse(
            message, command, Refusal(RejectReason.UNKNOWN_VOLUME, text), by_description=True
        )
    if volume.partition != message.partition:
        remark = f"it belongs to partition {volume.partition} and was forwarded there; set the host's partitioner right."
        return CommandResponse(message, command, None, remark=remark, forward_to=volume.partition)
    change = transition(volume, command, message.position)
    volume = change.volume.as_of(message.position)
    said = command_extents(command, volume, message.position)
    found = extract(said.extents, volume)
    taken = found.extents
    if command.kind not in (CommandKind.WRITES, CommandKind.RAW):
        taken = ExtentColumns(
            taken.offsets, taken.lengths
        )  # what may differ isn't known to be zero
    refusal = change.refusal
    if refusal is None and said.malformed:
        refusal = Refusal(RejectReason.MALFORMED_COMMAND, f"{said.malformed}; the rest is recorded")
    elif refusal is None and found.objection is not None:
        refusal = Refusal(RejectReason.OUT_OF_RANGE, found.objection)
    forks = command_forks(command, is_whole=refusal is None)
    if refusal is None and forks.malformed:
        text = f"{forks.malformed}; the extents are recorded as missed by every fork"
        refusal = Refusal(RejectReason.MALFORMED_COMMAND, text)
    stale = command.generation != volume.generation
    remarks = [change.remark] if change.remark else []
    remarks += [f"recorded, though it names generation {command.generation}"] if stale else []
    remarks += [f"the whole volume was made dirty: {said.remark}"] if said.remark else []
    return CommandResponse(
        message,
        command,
        refusal,
        volume,
        taken,
        forks,
        "; ".join(remarks),
        by_description=found.objection is not None
        or (refusal is not None and command.kind in DESCRIPTION_KINDS),
        described=change.volume if change.volume.described_position == message.position else None,
    )


def speaks_for_all(command: TrackingCommand) -> bool:
    """Whether it names no volume because it concerns all that its session has in the partition."""
    return not command.volume and command.kind in (CommandKind.HEARTBEAT, CommandKind.SESSION_CLOSE)
