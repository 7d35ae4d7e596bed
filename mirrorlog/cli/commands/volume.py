"""`mirrorlog volume`: volumes made, shown, grown, retired, and given a new history."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Final
from uuid import uuid4

import typer
from rich.table import Table

from mirrorlog.adapters.addresses import FileAddress, file_address, open_device, path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.sending import CommandContent, check_accepted, send_command
from mirrorlog.domain.commands import CommandKind, CommandStatus
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume, check_geometry, check_volume_name
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.catalog import describe, publish_volume
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.records import TIERS
from mirrorlog.units import format_size, parse_duration_s, parse_size

app = typer.Typer(
    no_args_is_help=True, help="Create, list, grow, renew and retire mirrored volumes."
)

_PUBLISH_S: Final = 60.0
Name = Annotated[str, typer.Argument(metavar="VOLUME")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
Timeout = Annotated[str, typer.Option(help="How long the node is waited for.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    size: Annotated[str, typer.Option(help="With a unit, as in 10GiB.")],
    block_size: Annotated[
        str, typer.Option(help="Granularity of tracking, a power of two.")
    ] = "4KiB",
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Its address; a file is made where there is none. Default: in the state folder.",
        ),
    ] = None,
    secondary: Annotated[
        list[str] | None,
        typer.Option(metavar="SITE=URI", help="Where a site keeps its copy; may be repeated."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIER=TIME",
            help=f"How long the log keeps records ({', '.join(TIERS)}), as in day=400d.",
        ),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Two hosts may write to it at once.")
    ] = False,
) -> None:
    """Make a volume, and its primary where that is a file that isn't there yet.

    A primary that holds data already is copied to each site as a whole first.
    """
    call = invocation(context)
    check_volume_name(name)
    size_bytes, block_bytes = parse_size(size), parse_size(block_size)
    check_geometry(size_bytes, block_bytes)
    secondaries, keep_s = _pairs(secondary or [], "SITE=URI"), _keep(keep or [])
    if name in load_volumes(call.settings):
        raise BadUse(
            "there is such a volume already",
            where=f"volume {name}",
            next="See `mirrorlog volume show`.",
        )
    default = FileAddress(call.settings.state_dir / "primary" / f"{name}.img")
    address = (file_address(primary) if primary else default).uri
    zeroed = _make_primary(address, size_bytes)  # before anybody hears of the volume
    described = _describe(call.settings, name, size_bytes, block_bytes, address)
    volume = replace(
        described, initially_zeroed=zeroed, secondaries=secondaries, keep_s=keep_s, shared=shared
    )
    _publish(call.settings, volume)
    _show(call, volume, f"volume {name} is made: {format_size(size_bytes)} at {address}")


@app.command("list")
def list_volumes(context: typer.Context) -> None:
    """Show every volume."""
    call = invocation(context)
    volumes = [volume for _, volume in sorted(load_volumes(call.settings).items())]
    call.output.print_json(
        {"schema_version": 1, "volumes": [as_fields(volume) for volume in volumes]}
    )
    table = Table("VOLUME", "SIZE", "BLOCK", "STATE", "PARTITION", "PRIMARY", "SECONDARIES")
    for each in volumes:
        sizes = format_size(each.size_bytes), format_size(each.block_size)
        sites = ", ".join(sorted(each.secondaries))
        table.add_row(each.volume, *sizes, each.state, str(each.partition), each.primary, sites)
    call.output.console.print(table)


@app.command()
def show(context: typer.Context, name: Name) -> None:
    """Show a volume's description."""
    call = invocation(context)
    volume = find_volume(call.settings, name)
    _show(call, volume, "\n".join(f"{key}: {value}" for key, value in as_fields(volume).items()))


@app.command()
def resize(
    context: typer.Context,
    name: Name,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The new size; a volume only grows.")],
    timeout: Timeout = "30s",
) -> None:
    """Grow a volume: its primary first, then its description; what it gains is dirty.

    A host that has it open goes on with the size that it knows, and sees the new one when it opens the volume again.
    """
    call = invocation(context)
    volume, size_bytes = _active(call.settings, name), parse_size(size)
    check_geometry(size_bytes, volume.block_size)
    if size_bytes < volume.size_bytes:
        raise BadUse(
            f"a volume of {volume.size_bytes} bytes can't be made smaller, to {size_bytes}",
            where=f"volume {name}",
            next="Create a smaller volume, copy what is to stay, and retire this one.",
        )
    if size_bytes == volume.size_bytes:
        _show(call, volume, f"volume {name} has {size_bytes} bytes already")
        return
    with open_device(volume.primary, writable=True) as device:
        if device.size_bytes < size_bytes:
            device.resize(size_bytes)
    grown = [Extent(volume.size_bytes, size_bytes - volume.size_bytes)]
    status = _change(
        call, volume, CommandContent(CommandKind.RESIZE, grown, size_bytes=size_bytes), timeout
    )
    now = find_volume(call.settings, name)
    _show(
        call,
        now,
        f"volume {name} has {now.size_bytes} bytes from position {status.position} on. {status.text}".strip(),
    )


@app.command()
def retire(context: typer.Context, name: Name, yes: Yes = False, timeout: Timeout = "30s") -> None:
    """End a volume's life: sites stop following it, and their copies stay as they are. For good."""
    call = invocation(context)
    volume = find_volume(call.settings, name)
    behind = _not_consistent(call.settings, name)
    warning = f" Not consistent now, and never again: {', '.join(behind)}." if behind else ""
    _confirm(
        f"Sites stop following volume {name} at once, for good; their copies stay as they are.{warning}",
        yes,
    )
    status = _change(call, volume, CommandContent(CommandKind.RETIRE), timeout)
    _show(
        call,
        find_volume(call.settings, name),
        f"volume {name} is retired at position {status.position}{warning}",
    )


@app.command()
def renew(context: typer.Context, name: Name, yes: Yes = False, timeout: Timeout = "30s") -> None:
    """Begin a new generation: for a volume that was written to while nobody tracked it.

    Each site copies again all that the primary holds, and the log tells nothing of the time before.
    """
    call = invocation(context)
    volume = _active(call.settings, name)
    _confirm(
        f"Each site of volume {name} copies again all that the primary holds, up to {format_size(volume.size_bytes)}, and "
        "until then has no consistent copy; what changed before now can't be asked any more.",
        yes,
    )
    status = _change(
        call,
        volume,
        CommandContent(CommandKind.NEW_GENERATION, new_generation=str(uuid4())),
        timeout,
    )
    now = find_volume(call.settings, name)
    _show(
        call,
        now,
        f"volume {name} has generation {now.generation} from position {status.position} on",
    )


def _make_primary(address: str, size_bytes: int) -> bool:
    """The primary is there, as large as the volume; whether it reads as zeros from end to end."""
    path = path_of(address)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        FileDevice.create(path, size_bytes).close()
        return True
    with open_device(address, writable=False) as device:
        if device.size_bytes < size_bytes:
            raise BadUse(
                f"the primary has {device.size_bytes} bytes, the volume {size_bytes}",
                where=address,
                next="Grow it.",
            )
        return next(device.allocated(), None) is None


def _describe(
    settings: Settings, name: str, size_bytes: int, block_size: int, address: str
) -> Volume:
    admin, topic = KafkaAdmin(settings.kafka_client()), settings.topics.commands
    try:
        ends = [
            admin.end_position(topic, partition) for partition in range(admin.partitions(topic))
        ]
    finally:
        admin.close()
    return describe(name, size_bytes, block_size, address, ends, SystemClock().now_us())


def _publish(settings: Settings, volume: Volume) -> None:
    publisher = KafkaPublisher(settings.kafka_client())
    try:
        publish_volume(publisher, settings.topics, volume)
        publisher.flush(_PUBLISH_S)
    finally:
        publisher.close()


def as_fields(volume: Volume) -> dict[str, Any]:
    """A description as JSON has it."""
    fields = asdict(volume)
    name, created_at_us = fields.pop("volume"), fields.pop("created_at_us")
    return {
        "volume": name,
        **fields,
        "created_at": format_time(created_at_us) if created_at_us else None,
    }


def _active(settings: Settings, name: str) -> Volume:
    volume = find_volume(settings, name)
    if volume.is_retired:
        where = f"volume {name}, position {volume.described_position}"
        raise BadUse("the volume is retired", where=where, next="Create a new one.")
    return volume


def _show(call: Invocation, volume: Volume, text: str) -> None:
    call.output.print_json({"schema_version": 1, **as_fields(volume)})
    call.output.print_text(text)


def _change(call: Invocation, volume: Volume, said: CommandContent, timeout: str) -> CommandStatus:
    """Publishes the command and waits for its status: the node has published the description before that."""
    status = send_command(call.settings, volume, said, parse_duration_s(timeout))
    check_accepted(status)
    return status


def _confirm(cost: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadUse(f"this needs a word of yours. {cost.rstrip('.')}", next="Say --yes.")
    typer.confirm(f"{cost} Go on?", abort=True, err=True)


def _not_consistent(settings: Settings, name: str) -> list[str]:
    client = settings.kafka_client()
    admin, reader = KafkaAdmin(client), KafkaReader(client)
    try:
        reports = SiteReports(reader, admin, settings.topics, SystemClock())
        reports.refresh()
        found = [report for report in reports.of(name) if report.state is not SiteState.CONSISTENT]
        return [
            f"{report.site} ({report.state}, {format_size(report.behind_bytes)} behind)"
            for report in found
        ]
    finally:
        reader.close()
        admin.close()


def _pairs(texts: Sequence[str], form: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise BadUse(f"'{text[:100]}' isn't {form}", next=f"Write it as {form}.")
    return {name: value for name, _, value in pairs}


def _keep(texts: Sequence[str]) -> dict[str, int]:
    keep = _pairs(texts, "TIER=TIME")
    if unknown := sorted(keep.keys() - set(TIERS)):
        raise BadUse(
            f"there is no tier {', '.join(unknown)[:100]}",
            next=f"The tiers are {', '.join(TIERS)}.",
        )
    return {tier: round(parse_duration_s(time)) for tier, time in keep.items()}
