"""`mirrorlog site`: the remote side."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.addresses import open_device, path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import lock_folder
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.consumers.resync.site import Site, SitePorts
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Run a site, which keeps secondaries up to date.")


@app.command()
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="SITE")],
    folder: Annotated[
        Path,
        typer.Option("--dir", help="Secondaries without an address of their own are made here."),
    ],
) -> None:
    """Keep the secondaries of a site up to date until stopped."""
    call = invocation(context)
    site = build_site(name, folder.absolute(), call.settings)
    stopped = stop_flag()
    call.output.print_message("ready", {"site": name})
    run_until(site, stopped, call.output)


def run_until(site: Site, stopped: Callable[[], bool], output: Output) -> None:
    """Turns until `stopped`; a summary line about once a second, where there is something new to say."""
    told: dict[str, object] = {}
    told_at_s = 0.0
    while not stopped():
        site.turn(0.1)
        if time.monotonic() - told_at_s >= 0.5 and (now := summary(site)) != told:
            told, told_at_s = now, time.monotonic()
            output.print_message("progress", told)


def summary(site: Site) -> dict[str, object]:
    """All secondaries of the site in one line."""
    secondaries = site.secondaries.values()
    return {
        "site": site.name,
        "volumes": len(secondaries),
        "consistent": sum(each.resting.state is SiteState.CONSISTENT for each in secondaries),
        "stopped": sum(each.resting.state is SiteState.STOPPED for each in secondaries),
        "blocks_copied": sum(each.blocks_copied for each in secondaries),
        "bytes_copied": sum(each.bytes_copied for each in secondaries),
    }


def build_site(name: str, folder: Path, settings: Settings) -> Site:
    """A site on real Kafka and real files. BadUse where another process has its folder; it is held until this one ends."""
    lock_folder(folder)
    client, topics, clock = settings.kafka_client(), settings.topics, SystemClock()
    admin = KafkaAdmin(client, settings.patience_s)
    ports = SitePorts(
        log=LogReader(KafkaReader(client), admin, topics.changelog, site=name),
        catalog=Catalog(KafkaReader(client), admin, topics, clock, settings.patience_s),
        admin=admin,
        publisher=KafkaPublisher(client),
        states=SecondaryStateFiles(folder / "states"),
        open_primary=lambda volume: open_device(volume.primary, writable=False),
        open_secondary=lambda volume: _open_secondary(volume, _address(name, folder, volume)),
        make_secondary=lambda volume: _make_secondary(volume, _address(name, folder, volume)),
        clock=clock,
    )
    return Site(name, ports, settings)


def _address(site: str, folder: Path, volume: Volume) -> str:
    return volume.secondaries.get(site) or (folder / f"{volume.volume}.img").as_uri()


def _make_secondary(volume: Volume, address: str) -> None:
    if not path_of(address).exists():
        FileDevice.create(path_of(address), volume.size_bytes).close()


def _open_secondary(volume: Volume, address: str) -> BlockDevice:
    device = open_device(address, writable=True)
    if device.size_bytes < volume.size_bytes:
        device.resize(volume.size_bytes)
    return device
