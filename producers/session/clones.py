"""A copy of the state folder that runs beside its original is refused.

The lock of the folder proves that the session before is dead, on one machine. A copy of the folder
has a lock of its own: a clone of a virtual machine, a restored backup on another machine. It names
the session of the original as its own, and would end it in the log while it writes. Nothing in the
folder tells a clone that boots beside its original from a machine that boots again after a power
cut. So if the folder was last used elsewhere, or before the machine was booted, the host first
listens: a session that lives sends a heartbeat each second.

A session that is cut off from Kafka for as long as that, or paused, isn't heard. What it publishes
later is recorded and flagged, as that of any session that was taken over
(docs/decisions/host-fence.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.folders import StateFolder, replace_file
from mirrorlog.ports.streams import Message
from mirrorlog.reading.open_sessions import SessionPorts

LISTEN_S: Final = 5.0
"""How long a host listens for the sessions of its folder, if the folder may be a copy."""
_OWNER_FILE: Final = "owner"
_POLL_S: Final = 0.2


def refuse_beside_original(
    folder: StateFolder,
    sessions: Mapping[str, Collection[str]],
    volumes: Mapping[str, Volume],
    ports: SessionPorts | None,
    topic: str,
    clock: Clock,
    report: Callable[[str], None],
) -> None:
    """Raise BadUse if the folder is a copy of one whose session lives.

    If the folder was last used by another machine, or by another run of this one, listen for
    LISTEN_S whether one of its sessions is heard of. Then the folder is this machine's.

    folder: locked. sessions: by volume, those that it calls open. volumes: the descriptions, by
    name. ports: None: nobody can listen. topic: of the commands.
    report: called with a line for people before the host listens.
    """
    owner = folder.owner().encode()
    if folder.read(_OWNER_FILE) == owner:
        return
    if sessions and ports is not None:
        report(
            "the state folder was last used elsewhere, or before this machine was booted: "
            f"listening for {LISTEN_S:g} s whether its last session still lives"
        )
        _listen(sessions, {volumes[name].partition for name in sessions}, ports, topic, clock)
    replace_file(folder, _OWNER_FILE, owner).close()


def _listen(
    sessions: Mapping[str, Collection[str]],
    partitions: Collection[int],
    ports: SessionPorts,
    topic: str,
    clock: Clock,
) -> None:
    """Raise BadUse if one of the sessions publishes something in these partitions."""
    named = {session for of_volume in sessions.values() for session in of_volume}
    with closing(ports.open_reader()) as reader:
        ends = {number: ports.admin.end_position(topic, number) for number in partitions}
        reader.assign(topic, ends)
        until_s, silent_polls = clock.monotonic_s() + LISTEN_S, 0
        while clock.monotonic_s() < until_s and silent_polls * _POLL_S < LISTEN_S:
            messages = reader.poll(_POLL_S)
            silent_polls += not messages
            for message in messages:
                command = _command(message)
                if command is not None and command.session in named and command.sequence >= 0:
                    raise _alive(command, message, sorted(sessions))


def _command(message: Message) -> TrackingCommand | None:
    try:
        return decode(message.value or b"", TrackingCommand)
    except BadInput:
        return None


def _alive(command: TrackingCommand, message: Message, names: Collection[str]) -> BadUse:
    return BadUse(
        f"session {command.session} of host '{command.host}' lives, and this host's state folder "
        "calls it its own: the folder, or the whole machine, is a copy of one that runs",
        where=f"volume {', '.join(names)}; heard at partition {message.partition}, "
        f"position {message.position}",
        next="Stop the original, then start this host again: it ends that session. If the original "
        "is to stay, this copy needs volumes of its own; remove its state folder.",
    )
