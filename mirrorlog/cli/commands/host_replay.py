"""`mirrorlog host replay`: a host that writes what a recording of block writes holds."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.forking import ForkModeOption, ForkOption, fork_reporter
from mirrorlog.cli.support.host_lines import HostLines
from mirrorlog.cli.support.metrics_option import (
    MetricsOption,
    metrics_printer,
    with_metrics,
)
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import ExitCode
from mirrorlog.producers.forks.fork_plans import fork_plans
from mirrorlog.producers.replay.replay import Pace, Replay, ReplayProgress
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.traces import AUTO, Trace, open_trace, summarize_trace
from mirrorlog.producers.wiring import HostWiring, open_request
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import Catalog, new_volume, publish_volume
from mirrorlog.units import parse_size

_MAX_OPEN_FILES = 1 << 16
_PUBLISH_S = 60.0
_MADE_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """The options of `host replay`.

    sizes: the size in bytes of each volume of the trace, by name.
    folder: the primaries of new volumes are made here. block_size: of new volumes.
    host: the name of the host.
    speed: how many times as fast as recorded; None for no pauses.
    """

    trace: Trace
    sizes: Mapping[str, int]
    folder: Path
    block_size: int
    host: str
    speed: float | None
    forks: Sequence[str]
    fork_mode: str


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
    metrics: MetricsOption = None,
    fork: ForkOption = None,
    fork_mode: ForkModeOption = "async",
) -> None:
    """Replay a recording through tracked volumes.

    Started again after a crash, the host continues where it was.
    """
    call = with_metrics(invocation(context, waits=True), metrics)
    _allow_open_files()
    trace = open_trace(trace_path, trace_format)
    block_bytes = parse_size(block_size)
    options = ReplayOptions(
        trace=trace,
        sizes=_volume_sizes(trace, block_bytes),
        folder=folder.absolute(),
        block_size=block_bytes,
        host=name,
        speed=speed,
        forks=fork or (),
        fork_mode=fork_mode,
    )
    if not _replay(call, options, stop_flag()):
        raise typer.Exit(int(ExitCode.INTERRUPTED))


def _replay(call: Invocation, options: ReplayOptions, stopped: Callable[[], bool]) -> bool:
    """Run the host until the recording ends or `stopped`. Return whether it has ended."""

    def print_progress(progress: ReplayProgress) -> None:
        call.output.print_message("progress", asdict(progress))

    with ExitStack() as stack:
        wiring = HostWiring(options.host, call.settings, stack)
        host, volumes = _open_volumes(call, options, wiring, stack)
        wiring.serve_metrics(host, metrics_printer(call.output))
        lines = HostLines(options.host, call.settings, call.output, wiring.clock.monotonic_s)
        call.output.print_message("ready", {"volumes": len(volumes), "host": options.host})
        call.output.print_text(f"{options.trace.name} is replayed: {lines.described(volumes)}")

        def stopped_meanwhile() -> bool:
            lines.look(host.figures)
            return stopped()

        result = Replay(
            host,
            options.trace.name,
            options.trace.requests(),
            volumes,
            wiring.folder,
            wiring.clock,
            pace=Pace(speed=options.speed),
            stop=stopped_meanwhile,
        ).run(print_progress)
        host.close()
    # Counted after close(), because it publishes the end of each session as a command.
    fields = asdict(result) | {
        "commands": host.commands,
        "last_positions": dict(host.last_positions),
    }
    call.output.print_message("result", fields)
    ending = "" if result.finished else "; stopped before the end of the recording: started again, "
    ending += "" if result.finished else "the host goes on from there"
    call.output.print_text(f"{fields['writes']} writes in {fields['commands']} commands{ending}")
    return result.finished


def _open_volumes(
    call: Invocation, options: ReplayOptions, wiring: HostWiring, stack: ExitStack
) -> tuple[Host, Mapping[str, TrackedVolume]]:
    """Make the volumes that don't exist, start the host, which `stack` ends, and open them all."""
    catalog, new = _make_volumes(call, wiring, options)
    descriptions = [catalog[name] for name in options.sizes]
    plans = fork_plans(options.forks, options.fork_mode, descriptions)
    host = stack.enter_context(
        wiring.start_host(
            catalog,
            forks=plans,
            on_fork_change=fork_reporter(call),
            report=call.output.print_text,
        )
    )

    def request(volume: Volume) -> OpenRequest:
        return open_request(
            volume,
            wiring.open_primary(volume),
            newly_created=volume.volume in new,
            forks=plans.get(volume.volume),
        )

    return host, host.open_all([request(volume) for volume in descriptions])


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
    call: Invocation, wiring: HostWiring, options: ReplayOptions
) -> tuple[Catalog, set[str]]:
    """Make the volumes of the recording that don't exist.

    Return the catalog, and the names of the volumes that were made now:

    1. Make the primaries, durably, _MADE_TOGETHER at a time.
    2. Publish the descriptions, and wait until Kafka acknowledges them: the node must know a volume
       before its first command.

    A volume whose primary exists already is described, and not returned as made now.
    """
    topics, admin, sizes = call.settings.topics, wiring.admin, options.sizes
    options.folder.mkdir(parents=True, exist_ok=True)
    catalog = wiring.read_catalog()
    new: set[str] = set()
    made: dict[Path, int] = {}
    described: list[Volume] = []
    cluster, partitions = admin.cluster_id(), range(admin.partitions(topics.commands))
    ends = [admin.end_position(topics.commands, partition) for partition in partitions]
    for name in sizes.keys() - catalog.keys():
        address = (options.folder / f"{name}.img").as_uri()
        volume = new_volume(
            name,
            size_bytes=sizes[name],
            block_size=options.block_size,
            primary=address,
            ends=ends,
            now_us=wiring.clock.now_us(),
            cluster=cluster,
        )
        path = path_of(volume.primary)
        if not path.exists():
            made[path] = volume.size_bytes
            new.add(name)
        described.append(volume)
    for start in range(0, len(made), _MADE_TOGETHER):
        FileDevice.create_all(dict(list(made.items())[start : start + _MADE_TOGETHER]))  # 1
    for volume in described:
        publish_volume(wiring.publisher, topics, volume)
    wiring.publisher.flush(_PUBLISH_S)  # 2
    catalog.refresh()
    return catalog, new
