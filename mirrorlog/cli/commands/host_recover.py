"""`mirrorlog host recover`: publish what a crashed host left unpublished, and close its session."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.errors import BadUse, MirrorlogError
from mirrorlog.producers.durable.activity_format import PreviousLog
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.wiring import HostWiring, default_host_name
from mirrorlog.units import format_size


class NotRecovered(MirrorlogError):
    """Writes of a crashed host may still be unpublished."""


def recover(
    context: typer.Context,
    volume: Annotated[str | None, typer.Argument(metavar="[VOLUME]")] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Recover the host of this name instead of host-VOLUME."),
    ] = None,
) -> None:
    """Publish what a host left unpublished when it crashed, and close its sessions.

    The next `host serve` does the same. Run this where the host doesn't come back soon, so that
    sites needn't wait for it, and on the machine where the host ran.

    1. Read the host's activity log. If it never ran here, or ended in order, there is nothing to
       do.
    2. Start the host's session (Host.__init__ settles what the sessions before left), and end it.
    3. Look at the log again: a volume that is still in it couldn't be settled, and the lines above
       say why. Then exit 1.
    """
    call = invocation(context)
    if (volume is None) is (host is None):
        raise BadUse(
            "it isn't clear which host is to be recovered",
            next="Name its volume, or the host with --host.",
        )
    name = host or default_host_name(volume or "")
    folder = DiskFolder(call.settings.state_dir / "host" / name)
    before = read_previous_log(folder)  # 1
    if not before.exists:
        raise BadUse(
            f"no host '{name}' ran here: it has no activity log",
            where=str(call.settings.state_dir / "host" / name),
            next="Run this on the machine where it ran, with its --state-dir.",
        )
    if before.volumes or before.damaged:
        with ExitStack() as stack:
            wiring = HostWiring(name, call.settings, stack)
            volumes = dict(wiring.read_catalog())
            wiring.start_host(volumes, forks={}, report=call.output.print_text).close()  # 2
    _finish(call, name, before, read_previous_log(folder))  # 3


def _finish(call: Invocation, host: str, before: PreviousLog, after: PreviousLog) -> None:
    """Print what was settled. Raise NotRecovered if something wasn't."""
    settled = sorted(before.volumes - after.volumes)
    regions = {name: len(before.regions.get(name, ())) for name in settled}
    call.output.print_message(
        "result",
        {
            "host": host,
            "recovered": [
                {
                    "volume": name,
                    "whole_volume": name in before.whole,
                    "regions": regions[name],
                    "regions_bytes": regions[name] * before.region_bytes,
                }
                for name in settled
            ],
            "left": sorted(after.volumes),
            "damaged": before.damaged,
        },
    )
    for name in settled:
        size = format_size(regions[name] * before.region_bytes)
        extent = "all of it" if name in before.whole else f"{regions[name]} regions, {size}"
        call.output.print_text(f"{name} is settled: {extent} counted as dirty, besides the spool")
    if after.volumes:
        raise NotRecovered(
            f"{', '.join(sorted(after.volumes))} may hold writes that aren't published",
            where=f"host {host}",
            next="Mend what the lines above say, then run this again.",
        )
    if before.damaged:
        raise NotRecovered(
            "the activity log was damaged, so nobody knows which volumes the host had open",
            where=f"host {host}",
            next="Open each of its volumes once with `host serve`: it then counts as dirty.",
        )
    if not settled:
        call.output.print_text(f"host {host} ended in order: nothing is left to be published")
