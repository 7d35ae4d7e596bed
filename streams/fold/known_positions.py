"""Which positions that a command names belong to the history of its partition. Pure.

A command names the highest position that its session knew as acknowledged. That position counts
only in the history in which the session learned it: each renewal of the history gives every volume
a new generation, so the generation that the command names tells. A command that names a position
at or above its own, in the history that the partition has, shows that the history broke: the host
knew a longer topic than there is (docs/decisions/histories.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.histories import History
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.fold.response import CommandResponse, is_session_wide

_FIRST_EPOCH: Final = 1


def names_history(command: TrackingCommand, history: History | None) -> bool:
    """Return whether a session-wide command belongs to the history of its partition.

    It names the history's id in the place of a generation. An older host names nothing, which
    counts until the history is renewed for the first time.
    """
    if not command.generation or history is None:
        return history is None or history.epoch <= _FIRST_EPOCH
    return command.generation == history.id


def with_known_positions(command: TrackingCommand, volume: Volume) -> TrackingCommand:
    """Return the command of `volume` without a position of another generation."""
    if command.acknowledged_position is None or command.generation == volume.generation:
        return command
    return replace(command, acknowledged_position=None)


def knows_more(responses: Iterable[CommandResponse], history: History | None) -> str | None:
    """Return what shows that hosts knew a longer topic than there is; None if nothing does.

    history: of the partition. Without one, an older node wrote the log, and nothing is concluded.
    """
    if history is None:
        return None
    for response in responses:
        command, position = response.command, response.message.position
        if command is None or command.acknowledged_position is None or not response.is_authentic:
            continue
        if command.acknowledged_position < position:
            continue
        if is_session_wide(command):
            is_known = command.generation == history.id
        else:
            volume = response.volume
            is_known = volume is not None and command.generation == volume.generation
        if is_known:
            return (
                f"host '{command.host}' knew position {command.acknowledged_position} as "
                f"acknowledged when it sent the command at position {position}: the commands topic "
                "lost acknowledged commands"
            )
    return None
