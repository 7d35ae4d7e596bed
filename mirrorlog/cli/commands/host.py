"""`mirrorlog host`: the side that writes."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.cli.commands.host_serve import serve
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.forking import ForkModeOption, ForkOption, fork_reporter
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.errors import ExitCode
from mirrorlog.producers.forks.fork_plans import fork_plans
from mirrorlog.producers.replay.replay import Replay, ReplayProgress
from mirrorlog.producers.traces import AUTO, open_trace, survey
from mirrorlog.producers.wiring import HostWiring, open_request
from mirrorlog.reading.catalog import Catalog, describe, publish_volume
from mirrorlog.units import parse_size

app = typer.Typer(no_args_is_help=True, help="Hosts: what writes to volumes.")
app.command()(serve)


@app.command()
def replay(
    context: typer.Context,
    trace_path: Annotated[
        Path, typer.Argument(metavar="TRACE", help="A recording of block writes.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="The volumes' primaries are made here.")],
    trace_format: Annotated[
        str, typer.Option("--format", help="auto, vscsi, msr, tencent, blkparse, mirrorlog.")
    ] = AUTO,
    block_size: Annotated[
        str, typer.Option("--block-size", help="Granularity of tracking of new volumes.")
    ] = "4KiB",
    name: Annotated[str, typer.Option(help="Name of the host.")] = "host",
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="1 as recorded, 2 twice as fast; without, at once."),
    ] = None,
    fork: ForkOption = None,
    fork_mode: ForkModeOption = "async",
) -> None:
    """Replay a recording through tracked volumes. Started again after a crash, it goes on where it was."""
    call = invocation(context)
    _allow_open_files()
    trace = open_trace(trace_path, trace_format)
    block_bytes = parse_size(block_size)
    sizes = {
        volume: max(-(-size // block_bytes), 1) * block_bytes
        for volume, size in survey(trace).volumes.items()
    }
    stopped = stop_flag()

    def progress(now: ReplayProgress) -> None:
        call.output.print_message("progress", asdict(now))

    with ExitStack() as stack:
        wiring = HostWiring(name, call.settings, stack)
        catalog, new = _volumes(call, wiring, sizes, folder.absolute(), block_bytes)
        plans = fork_plans(fork or (), fork_mode, [catalog[volume] for volume in sizes])
        host = stack.enter_context(
            wiring.start_host(
                catalog,
                forks=plans,
                on_fork_change=fork_reporter(call),
                report=call.output.print_text,
            )
        )
        requests = [
            open_request(
                catalog[volume],
                wiring.open_primary(catalog[volume]),
                newly_created=volume in new,
                forks=plans.get(volume),
            )
            for volume in sizes
        ]
        volumes = host.open_all(requests)
        call.output.print_message("ready", {"volumes": len(volumes)})
        result = Replay(
            host,
            trace.name,
            trace.requests(),
            volumes,
            wiring.folder,
            wiring.clock,
            speed=speed,
            stop=stopped,
        ).run(progress)
        host.close()
    # After close(): the sessions' ends are commands too.
    found = asdict(result) | {
        "commands": host.commands,
        "last_positions": dict(host.last_positions),
    }
    call.output.print_message("result", found)
    call.output.print_text(f"{found['writes']} writes in {found['commands']} commands")
    if not result.finished:
        raise typer.Exit(int(ExitCode.INTERRUPTED))


def _allow_open_files() -> None:
    """Two for each volume: thousands of volumes need more than the 1,024 that many systems begin with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _volumes(
    call: Invocation,
    wiring: HostWiring,
    sizes: Mapping[str, int],
    folder: Path,
    block_size: int,
) -> tuple[Catalog, set[str]]:
    """The catalog with every volume of `sizes` in it, and which of them were made now.

    1. The primary is made, durably.
    2. Its description is published, acknowledged: the node must know a volume before its first command.
    """
    settings = call.settings
    folder.mkdir(parents=True, exist_ok=True)
    catalog = wiring.read_catalog()
    admin, publisher = wiring.admin, wiring.publisher
    new = set()
    partitions = admin.partitions(settings.topics.commands)
    ends = [
        admin.end_position(settings.topics.commands, partition) for partition in range(partitions)
    ]
    for name in sizes.keys() - catalog.keys():
        volume = describe(
            name,
            sizes[name],
            block_size,
            (folder / f"{name}.img").as_uri(),
            ends,
            wiring.clock.now_us(),
        )
        path = path_of(volume.primary)
        if not path.exists():
            FileDevice.create(path, volume.size_bytes).close()
            new.add(name)
        publish_volume(publisher, settings.topics, volume)
    publisher.flush(60)
    catalog.refresh()
    return catalog, new
