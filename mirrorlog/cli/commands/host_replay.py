"""`mirrorlog host replay`: a host that writes what a recording of block writes holds."""

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
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.forking import ForkModeOption, ForkOption, fork_reporter
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.errors import ExitCode
from mirrorlog.producers.forks.fork_plans import fork_plans
from mirrorlog.producers.replay.replay import Pace, Replay, ReplayProgress
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.traces import AUTO, Trace, open_trace, summarize_trace
from mirrorlog.producers.wiring import HostWiring, open_request
from mirrorlog.reading.catalog import Catalog, describe, publish_volume
from mirrorlog.units import parse_size

_MAX_OPEN_FILES = 1 << 16
_PUBLISH_S = 60.0


def replay(
    context: typer.Context,
    trace_path: Annotated[
        Path, typer.Argument(metavar="TRACE", help="A recording of block writes.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="Make the volumes' primaries here.")],
    trace_format: Annotated[
        str,
        typer.Option(
            "--format", help="Read this format: auto, vscsi, msr, tencent, blkparse, mirrorlog."
        ),
    ] = AUTO,
    block_size: Annotated[
        str, typer.Option("--block-size", help="Track new volumes with this granularity.")
    ] = "4KiB",
    name: Annotated[str, typer.Option(help="Run under this name of the host.")] = "host",
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Replay at 1 times the recorded speed, at 2 times, …. Without it, the host "
            "doesn't pause between writes.",
        ),
    ] = None,
    fork: ForkOption = None,
    fork_mode: ForkModeOption = "async",
) -> None:
    """Replay a recording through tracked volumes.

    Started again after a crash, the host continues where it was.
    """
    call = invocation(context)
    _allow_open_files()
    trace = open_trace(trace_path, trace_format)
    block_bytes = parse_size(block_size)
    sizes = _volume_sizes(trace, block_bytes)
    stopped = stop_flag()

    def print_progress(progress: ReplayProgress) -> None:
        call.output.print_message("progress", asdict(progress))

    with ExitStack() as stack:
        wiring = HostWiring(name, call.settings, stack)
        catalog, new = _make_volumes(call, wiring, sizes, folder.absolute(), block_bytes)
        plans = fork_plans(fork or (), fork_mode, [catalog[volume] for volume in sizes])
        host = stack.enter_context(
            wiring.start_host(
                catalog,
                forks=plans,
                on_fork_change=fork_reporter(call),
                report=call.output.print_text,
            )
        )

        def request(volume: str) -> OpenRequest:
            return open_request(
                catalog[volume],
                wiring.open_primary(catalog[volume]),
                newly_created=volume in new,
                forks=plans.get(volume),
            )

        volumes = host.open_all([request(volume) for volume in sizes])
        call.output.print_message("ready", {"volumes": len(volumes)})
        result = Replay(
            host,
            trace.name,
            trace.requests(),
            volumes,
            wiring.folder,
            wiring.clock,
            pace=Pace(speed=speed),
            stop=stopped,
        ).run(print_progress)
        host.close()
    # Counted after close(), because it publishes the end of each session as a command.
    fields = asdict(result) | {
        "commands": host.commands,
        "last_positions": dict(host.last_positions),
    }
    call.output.print_message("result", fields)
    call.output.print_text(f"{fields['writes']} writes in {fields['commands']} commands")
    if not result.finished:
        raise typer.Exit(int(ExitCode.INTERRUPTED))


def _volume_sizes(trace: Trace, block_size: int) -> dict[str, int]:
    """Return the size in bytes of each volume of the trace: at least one block, whole blocks."""
    return {
        volume: max(-(-size // block_size), 1) * block_size
        for volume, size in summarize_trace(trace).volumes.items()
    }


def _allow_open_files() -> None:
    """Raise this process's limit of open files as far as the system lets it.

    A host opens two files for each volume. Many systems begin with a limit of 1,024, which is too
    low for thousands of volumes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_volumes(
    call: Invocation, wiring: HostWiring, sizes: Mapping[str, int], folder: Path, block_size: int
) -> tuple[Catalog, set[str]]:
    """Make the volumes of `sizes` that don't exist. Return the catalog, and which were made now.

    1. Make the primary, durably.
    2. Publish the description, and wait until Kafka acknowledges it: the node must know a volume
       before its first command.

    A volume whose primary exists already is described, and not returned as made now.
    """
    topics, admin = call.settings.topics, wiring.admin
    folder.mkdir(parents=True, exist_ok=True)
    catalog = wiring.read_catalog()
    new = set()
    partitions = range(admin.partitions(topics.commands))
    ends = [admin.end_position(topics.commands, partition) for partition in partitions]
    for name in sizes.keys() - catalog.keys():
        address = (folder / f"{name}.img").as_uri()
        volume = describe(name, sizes[name], block_size, address, ends, wiring.clock.now_us())
        path = path_of(volume.primary)
        if not path.exists():
            FileDevice.create(path, volume.size_bytes).close()  # 1
            new.add(name)
        publish_volume(wiring.publisher, topics, volume)
    wiring.publisher.flush(_PUBLISH_S)  # 2
    catalog.refresh()
    return catalog, new
