"""`mirrorlog command`: one tracking command by hand, and its status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.sending import CommandContent, check_accepted, send_command
from mirrorlog.domain.commands import CommandKind, RawCommand, WireProtocol
from mirrorlog.domain.extents import Extent, ExtentKind
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s, parse_size

app = typer.Typer(no_args_is_help=True, help="Send tracking commands by hand.")

_FORM: Final = "OFFSET+LENGTH, sizes with units, as in 1GiB+64KiB. Repeatable."


def _extents(meaning: str) -> Any:
    """Return an option (Typer's OptionInfo) that takes extents.

    meaning: the beginning of its help, which says what happened to the extents.
    """
    return typer.Option(metavar="EXTENT", help=f"{meaning}: {_FORM}")


@app.command()
def send(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(metavar="VOLUME")],
    write: Annotated[list[str] | None, _extents("Record that these extents were written")] = None,
    zero: Annotated[list[str] | None, _extents("Record that these extents were zeroed")] = None,
    discard: Annotated[
        list[str] | None, _extents("Record that these extents were discarded")
    ] = None,
    mark_dirty: Annotated[
        list[str] | None, _extents("Record that these extents may have changed")
    ] = None,
    raw: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROTOCOL:HEX[:HEX]",
            help="Record a command as it was on the wire (scsi, nvme or nbd), and its data.",
        ),
    ] = None,
    logical_block: Annotated[
        str, typer.Option(help="Read the addresses in raw SCSI and NVMe commands in this unit.")
    ] = "512",
    close_session: Annotated[
        str | None,
        typer.Option(
            metavar="SESSION",
            help="Close this session, which will never write again: sites stop waiting for it.",
        ),
    ] = None,
    barrier: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name this point in the volume's history."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="Wait this long for the node's status.")] = "30s",
) -> None:
    """Publish one command that belongs to no session, and wait for the node's status."""
    call = invocation(context)
    deadline_s = parse_duration_s(timeout)
    extents = [
        *(_extent(text, ExtentKind.WRITE) for text in [*(write or []), *(mark_dirty or [])]),
        *(_extent(text, ExtentKind.ZERO) for text in zero or []),
        *(_extent(text, ExtentKind.DISCARD) for text in discard or []),
    ]
    given = {
        CommandKind.WRITES: write or zero or discard,
        CommandKind.MARK_DIRTY: mark_dirty,
        CommandKind.RAW: raw,
        CommandKind.BARRIER: barrier,
        CommandKind.SESSION_CLOSE: close_session,
    }
    content = CommandContent(
        _only_kind([kind for kind, values in given.items() if values]),
        extents,
        note=barrier,
        session=close_session,
        raw=tuple(_raw(text) for text in raw or []),
        logical_block_bytes=parse_size(logical_block) if raw else 0,
    )
    status = send_command(call.settings, find_volume(call.settings, volume), content, deadline_s)
    call.output.print_json({"schema_version": 1, **asdict(status)})
    call.output.print_text(
        f"{status.code} at position {status.position} of partition {status.partition}. "
        f"{status.text}".strip()
    )
    check_accepted(status)


def _only_kind(kinds: Sequence[CommandKind]) -> CommandKind:
    """Return the kind that the options amount to. Raise BadUse unless there is exactly one."""
    if len(kinds) != 1:
        raise BadUse(
            "a command is of one kind",
            next="Give extents, or ranges to mark dirty, or raw commands, or a barrier's name, "
            "or a session to close.",
        )
    return kinds[0]


def _raw(text: str) -> RawCommand:
    """Parse PROTOCOL:HEX[:HEX]. Raise BadUse if it isn't that."""
    protocol, _, rest = text.partition(":")
    command, _, data = rest.partition(":")
    try:
        return RawCommand(
            WireProtocol(protocol.upper()), bytes.fromhex(command), bytes.fromhex(data)
        )
    except ValueError as error:
        raise BadUse(
            f"'{text[:60]}' isn't a raw command", next="Write it like scsi:2a000000000800000800."
        ) from error


def _extent(text: str, kind: ExtentKind) -> Extent:
    """Parse OFFSET+LENGTH. Raise BadUse if it isn't that."""
    offset, plus, length = text.partition("+")
    if not plus:
        raise BadUse(f"'{text}' isn't an extent", next="Write OFFSET+LENGTH, as in 1GiB+64KiB.")
    return Extent(parse_size(offset), parse_size(length), kind)
