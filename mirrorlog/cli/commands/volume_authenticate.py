"""`mirrorlog volume authenticate`: from now on, commands need a host key (docs/host-keys.md)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Annotated

import typer

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.describing import publish_changed
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.sending import CommandContent, check_accepted, send_command
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.host_keys import is_owned
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.open_sessions import SessionPorts, read_sessions
from mirrorlog.settings import Settings
from mirrorlog.units import parse_duration_s


def authenticate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    timeout: Annotated[str, typer.Option(help="Wait this long for the node's status.")] = "30s",
) -> None:
    """Let commands of a volume count only with the code of a host key, from now on.

    It needs a host key that may touch the volume, and hosts that have been started with theirs.
    There is no way back.
    """
    call = invocation(context)
    volume = find_volume(call.settings, name)
    if volume.is_retired:
        where = f"volume {name}, position {volume.described_position}"
        raise BadUse("the volume is retired", where=where, next="Create a new one.")
    check_host_key(call.settings, name)
    if not volume.is_authenticated:
        end = _check_open_sessions(call.settings, volume)
        volume = publish_changed(
            call.settings,
            volume,
            lambda described: replace(described, authenticated_after=end - 1),
            lambda described: described.is_authenticated,
        )
    let_node_know(call, volume, parse_duration_s(timeout))
    call.output.print_json(
        {
            "schema_version": 1,
            "volume": name,
            "authenticated_after": volume.authenticated_after,
        }
    )
    call.output.print_text(
        f"volume {name} is authenticated: commands behind position {volume.authenticated_after} "
        "count only with the code of a host key"
    )


def check_host_key(settings: Settings, name: str) -> None:
    """Raise BadUse if this process has no host key."""
    if not settings.host_key:
        raise BadUse(
            "this process has no host key, and commands of an authenticated volume need one",
            where=f"volume {name}",
            next="Set host_key_file (docs/host-keys.md).",
        )


def let_node_know(call: Invocation, volume: Volume, deadline_s: float) -> None:
    """Wait until the node judges codes of the volume, and believes those of this process.

    A command that could change the description makes the node read it again. This one changes
    nothing. Raise BadInput if the node refuses it, KafkaFailed if no status comes in time.
    """
    content = CommandContent(CommandKind.RESIZE, size_bytes=volume.size_bytes)
    check_accepted(send_command(call.settings, volume, content, deadline_s))


def _check_open_sessions(settings: Settings, volume: Volume) -> int:
    """Return where the commands end. Raise BadUse if a host without a key has the volume open."""
    client, name = settings.kafka_client(), volume.volume
    with closing(KafkaAdmin(client)) as admin:
        end = admin.end_position(settings.topics.commands, volume.partition)
        ports = SessionPorts(lambda: KafkaReader(client), admin)
        known = read_sessions({name: volume}, ports, settings.topics, SystemClock())
    others = [other for other in known.open_before({name: end}) if not is_owned(other.session)]
    if others:
        raise BadUse(
            f"a host without a key has the volume open: host '{others[0].host}', session "
            f"{others[0].session}",
            where=f"volume {name}",
            next="Start it again with its key (host_key_file), then try again.",
        )
    return end
