"""`mirrorlog volume`: create, list, show, grow, move, renew and retire volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Final
from uuid import uuid4

import typer

from mirrorlog.adapters.addresses import (
    FileAddress,
    absolute_address,
    open_device,
    open_primary,
    parse_file_address,
)
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.cli.commands.volume_authenticate import authenticate
from mirrorlog.cli.commands.volume_group import group
from mirrorlog.cli.support.confirming import DryRunOption, YesOption, is_confirmed
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.lookup import find_volume, load_volumes
from mirrorlog.cli.support.moving import check_sessions, publish_move
from mirrorlog.cli.support.pairs import parse_pairs
from mirrorlog.cli.support.primaries import (
    PrimaryChoice,
    check_size,
    check_unused,
    make_or_check,
    marked,
)
from mirrorlog.cli.support.secondaries import check_secondaries
from mirrorlog.cli.support.sending import CommandContent, check_accepted, send_command
from mirrorlog.cli.support.tables import print_fields, print_table
from mirrorlog.cli.support.volume_view import (
    LIST_COLUMNS,
    described_volume,
    list_row,
    volume_fields,
)
from mirrorlog.domain.commands import CommandKind, CommandStatus
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.primary_marks import PrimaryMark, foreign_error, new_mark
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import (
    Volume,
    check_geometry,
    check_group_name,
    check_volume_name,
)
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.reading.catalog import new_volume, publish_new_volume
from mirrorlog.reading.partition_counts import partition_count
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.tiers import TIERS
from mirrorlog.units import format_size, parse_duration_s, parse_size

app = typer.Typer(
    no_args_is_help=True, help="Create, list, group, grow, move, renew and retire mirrored volumes."
)
app.command()(group)
app.command()(authenticate)

_PUBLISH_S: Final = 60.0
Name = Annotated[str, typer.Argument(metavar="VOLUME")]
ReusePrimary = Annotated[
    bool,
    typer.Option(
        "--reuse-primary",
        help="Take a primary that was marked for a volume which is gone for good.",
    ),
]
Timeout = Annotated[str, typer.Option(help="Wait this long for the node's status.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    size: Annotated[str, typer.Option(help="Size of the volume, with a unit, as in 10GiB.")],
    block_size: Annotated[
        str, typer.Option(help="Track the volume with this granularity, a power of two.")
    ] = "4KiB",
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Take what lies at this address for the primary. The default is a file in the "
            "state folder, which is made.",
        ),
    ] = None,
    create_primary: Annotated[
        bool,
        typer.Option("--create-primary", help="Make a file at --primary if there is none."),
    ] = False,
    reuse_primary: ReusePrimary = False,
    secondary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE=URI", help="Keep the secondary of a site at this address. Repeatable."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIER=TIME",
            help=f"Keep log records of a tier ({', '.join(TIERS)}) this long, as in day=400d.",
        ),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Let two hosts write to the volume at once.")
    ] = False,
    group_name: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            help="Put the volume into this consistency group (volume group).",
        ),
    ] = None,
    authenticated: Annotated[
        bool,
        typer.Option(
            "--authenticated", help="Let commands count only with the code of a host key."
        ),
    ] = False,
) -> None:
    """Create a volume on a primary.

    If the primary holds data already, each site first copies all of it.
    """
    call = invocation(context)
    check_volume_name(name)
    if group_name is not None:
        check_group_name(group_name)
    size_bytes, block_bytes = parse_size(size), parse_size(block_size)
    check_geometry(size_bytes=size_bytes, block_size=block_bytes)
    secondaries, keep_s = parse_pairs(secondary or [], "SITE=URI"), _keep_s(keep or [])
    volumes = load_volumes(call.settings)
    if name in volumes:
        raise BadUse(
            "there is such a volume already",
            where=f"volume {name}",
            next="See `mirrorlog volume show`.",
        )
    default = FileAddress(call.settings.state_dir / "primary" / f"{name}.img")
    choice = PrimaryChoice(
        absolute_address(primary) if primary else default.uri,
        create=create_primary or primary is None,
        with_parents=primary is None,
        reuse=reuse_primary,
    )
    address, marks = choice.address, PrimaryMarkFiles(call.settings.primary_marks_dir)
    check_secondaries(name, address, secondaries, volumes.values())
    # The primary exists before anybody can read of the volume.
    zeroed = make_or_check(choice, name, size_bytes)
    check_unused(choice, name, volumes, marks)
    described = _describe(call.settings, name, size_bytes, block_bytes, address)
    volume = replace(
        described,
        initially_zeroed=zeroed,
        secondaries=secondaries,
        keep_s=keep_s,
        shared=shared,
        group=group_name,
        authenticated_after=described.origin_position if authenticated else None,
    )
    with marked(choice, marks, partial(_new_mark, volume)):
        _publish(call.settings, volume)
    _print_volume(call, volume, f"volume {name} is created: {format_size(size_bytes)} at {address}")


@app.command("list")
def list_volumes(context: typer.Context) -> None:
    """List all volumes."""
    call = invocation(context)
    known = load_volumes(call.settings, may_be_mirror=True)
    volumes = [volume for _, volume in sorted(known.items())]
    call.output.print_json(
        {"schema_version": 1, "volumes": [volume_fields(volume) for volume in volumes]}
    )
    print_table(call.output, LIST_COLUMNS, map(list_row, volumes))


@app.command()
def show(context: typer.Context, name: Name) -> None:
    """Show the description of a volume."""
    call = invocation(context)
    volume = find_volume(call.settings, name, may_be_mirror=True)
    call.output.print_json({"schema_version": 1, **volume_fields(volume)})
    print_fields(call.output, described_volume(volume))


@app.command()
def resize(
    context: typer.Context,
    name: Name,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The new size; a volume only grows.")],
    timeout: Timeout = "30s",
) -> None:
    """Grow a volume: first its primary, then its description. What it gains is dirty.

    A host that has the volume open continues with the old size. It sees the new size when it
    opens the volume again.
    """
    call = invocation(context)
    volume, size_bytes = _find_active(call.settings, name), parse_size(size)
    check_geometry(size_bytes=size_bytes, block_size=volume.block_size)
    if size_bytes < volume.size_bytes:
        raise BadUse(
            f"a volume of {volume.size_bytes} bytes can't be made smaller, to {size_bytes}",
            where=f"volume {name}",
            next="Create a smaller volume, copy what is to stay, and retire this one.",
        )
    if size_bytes == volume.size_bytes:
        _print_volume(call, volume, f"volume {name} has {size_bytes} bytes already")
        return
    with open_device(volume.primary, writable=True) as device:
        mark = PrimaryMarkFiles(call.settings.primary_marks_dir).read(device)
        if mark is not None and not mark.is_of(volume):
            raise foreign_error(mark, volume)
        if device.size_bytes < size_bytes:
            device.resize(size_bytes)
    grown = [Extent(volume.size_bytes, size_bytes - volume.size_bytes)]
    content = CommandContent(CommandKind.RESIZE, grown, size_bytes=size_bytes)
    status = _send(call, volume, content, timeout)
    volume = find_volume(call.settings, name)
    _print_volume(
        call,
        volume,
        f"volume {name} has {volume.size_bytes} bytes from position {status.position} on. "
        f"{status.text}".strip(),
    )


@app.command()
def retire(
    context: typer.Context,
    name: Name,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Timeout = "30s",
) -> None:
    """Retire a volume for good: sites stop following it, and their copies stay as they are."""
    call = invocation(context)
    volume = find_volume(call.settings, name)
    if volume.is_retired:
        text = f"volume {name} was retired before, at position {volume.described_position}"
        _print_volume(call, volume, text)
        return
    behind = _inconsistent_sites(call.settings, name)
    warning = f" Not consistent now, and never again: {', '.join(behind)}." if behind else ""
    cost = (
        f"Sites stop following volume {name} at once, for good; their copies stay as they are."
        f"{warning}"
    )
    if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
        return
    status = _send(call, volume, CommandContent(CommandKind.RETIRE), timeout)
    _print_volume(
        call,
        find_volume(call.settings, name),
        f"volume {name} is retired at position {status.position}.{warning}",
    )


@app.command()
def renew(
    context: typer.Context,
    name: Name,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Timeout = "30s",
) -> None:
    """Give a volume a new generation, after somebody wrote to it without tracking.

    Each site copies again all that the primary holds. The log can't answer any more what changed
    before.
    """
    call = invocation(context)
    volume = _find_active(call.settings, name)
    cost = (
        f"Each site of volume {name} copies again all that the primary holds, up to "
        f"{format_size(volume.size_bytes)}, and until then has no consistent copy; what changed "
        "before now can't be asked any more."
    )
    if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
        return
    content = CommandContent(CommandKind.NEW_GENERATION, new_generation=str(uuid4()))
    status = _send(call, volume, content, timeout)
    volume = find_volume(call.settings, name)
    _print_volume(
        call,
        volume,
        f"volume {name} has generation {volume.generation} from position {status.position} on",
    )


@app.command()
def move(
    context: typer.Context,
    name: Name,
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Reach the primary at this address from now on. Without it the address stays.",
        ),
    ] = None,
    take_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SESSION",
            help="End this session of a host that is gone for good. Repeatable.",
        ),
    ] = None,
    reuse_primary: ReusePrimary = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    timeout: Timeout = "30s",
) -> None:
    """Move a volume to another host. Run it on the new one, where the primary is.

    No host may have the volume open. A host that is dead and can't be reached any more is named
    with --take-over. The whole volume counts as dirty: each site copies it again.

    1. The primary is checked, and kept from other writers on this machine.
    2. Its mark is renewed: a host whose state folder knows another one trusts nothing of it.
    3. The address is published, and the sessions of hosts that are gone. If one of them lives and
       can reach Kafka, it writes no more.
    4. The whole volume is recorded as dirty.
    5. These sessions are ended: sites no longer wait for them.
    """
    call = invocation(context)
    volume = _find_active(call.settings, name)
    sessions = check_sessions(call.settings, volume, take_over or ())
    address = parse_file_address(primary or volume.primary).uri
    choice = PrimaryChoice(address, reuse=reuse_primary)
    marks = PrimaryMarkFiles(call.settings.primary_marks_dir)
    with open_primary(address, exclusive=not volume.shared) as device:  # 1
        check_size(device, address, volume.size_bytes)
        check_unused(choice, name, load_volumes(call.settings), marks)
        cost = (
            f"All of volume {name}, {format_size(volume.size_bytes)}, counts as dirty, and each "
            f"site copies it again from {address}. "
            + "".join(f"Session {session} is ended. " for session in sessions)
        )
        if not is_confirmed(call, name, cost, yes=yes, dry_run=dry_run):
            return
        device.flush()
        mark = _new_mark(volume, device)
        marks.write([(device, mark)])  # 2
        volume = publish_move(call.settings, volume, address, sessions, mark.primary_id)  # 3
        whole = [Extent(0, volume.size_bytes)]
        note = "moved to another host"
        dirty = CommandContent(CommandKind.MARK_DIRTY, whole, note=note)
        status = _send(call, volume, dirty, timeout)  # 4
        for session in sessions:
            close = CommandContent(CommandKind.SESSION_CLOSE, session=session, note=note)
            _send(call, volume, close, timeout)  # 5
    _print_volume(
        call,
        volume,
        f"volume {name} is moved: its primary is at {address}, and all of it is dirty from "
        f"position {status.position} on. Start its host here: `mirrorlog host serve {name}`",
    )


def _new_mark(volume: Volume, device: BlockDevice) -> PrimaryMark:
    return new_mark(volume, device.identity.lasting, str(uuid4()))


def _describe(
    settings: Settings, name: str, size_bytes: int, block_size: int, address: str
) -> Volume:
    """Return the description of a new volume whose history begins now."""
    admin, topic = KafkaAdmin(settings.kafka_client()), settings.topics.commands
    try:
        ends = [
            admin.end_position(topic, partition)
            for partition in range(partition_count(admin, settings.topics))
        ]
        cluster = admin.cluster_id()
    finally:
        admin.close()
    return new_volume(
        name,
        size_bytes=size_bytes,
        block_size=block_size,
        primary=address,
        ends=ends,
        now_us=SystemClock().now_us(),
        cluster=cluster,
    )


def _publish(settings: Settings, volume: Volume) -> None:
    """Publish the new description, and wait until Kafka acknowledges it. Errors: KafkaFailed."""
    publisher = KafkaPublisher(settings.kafka_client())
    try:
        publish_new_volume(publisher, settings.topics, volume, _PUBLISH_S)
    finally:
        publisher.close()


def _find_active(settings: Settings, name: str) -> Volume:
    """Return the volume. Raise BadUse if there is none of that name, or it is retired."""
    volume = find_volume(settings, name)
    if volume.is_retired:
        where = f"volume {name}, position {volume.described_position}"
        raise BadUse("the volume is retired", where=where, next="Create a new one.")
    return volume


def _print_volume(call: Invocation, volume: Volume, text: str) -> None:
    call.output.print_json({"schema_version": 1, **volume_fields(volume)})
    call.output.print_text(text)


def _send(call: Invocation, volume: Volume, content: CommandContent, timeout: str) -> CommandStatus:
    """Publish the command and wait for its status. Raise BadInput if the node refuses it.

    The node publishes the volume's new description before it answers.
    """
    status = send_command(call.settings, volume, content, parse_duration_s(timeout))
    check_accepted(status)
    return status


def _inconsistent_sites(settings: Settings, name: str) -> list[str]:
    """Return in words each site whose last report doesn't say consistent, and not behind."""
    client = settings.kafka_client()
    admin, reader = KafkaAdmin(client), KafkaReader(client)
    try:
        site_reports = SiteReports(reader, admin, settings.topics, SystemClock())
        site_reports.refresh()
        return [
            f"{report.site} ({report.state}, {_behind(report)} behind)"
            for report in site_reports.of(name)
            if report.state is not SiteState.CONSISTENT or report.behind_blocks
        ]
    finally:
        reader.close()
        admin.close()


def _behind(report: SiteProgress) -> str:
    """Return how far a site is behind, in words: nobody knows of a stopped one."""
    return "unknown how far" if report.behind_bytes is None else format_size(report.behind_bytes)


def _keep_s(texts: Sequence[str]) -> dict[str, int]:
    """Parse `TIER=TIME` texts; return seconds by tier.

    Raise BadUse for a tier that doesn't exist.
    """
    keep = parse_pairs(texts, "TIER=TIME")
    if unknown := sorted(keep.keys() - set(TIERS)):
        raise BadUse(
            f"there is no tier {', '.join(unknown)[:100]}",
            next=f"The tiers are {', '.join(TIERS)}.",
        )
    return {tier: round(parse_duration_s(time)) for tier, time in keep.items()}
