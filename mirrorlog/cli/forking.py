"""`--fork` and `--fork-mode`: hosts that send their writes to secondaries, too (docs/forked-writes.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, TypeAlias

import typer

from mirrorlog.adapters.devices import open_device
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.context import Invocation
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.fork_calls import ThreadWorkers
from mirrorlog.producers.fork_plans import ForkMode, ForkNews, ForkPlan
from mirrorlog.producers.forks import ForkPorts
from mirrorlog.site_reports import SiteReports
from mirrorlog.volumes import Volume

ForkOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--fork",
        metavar="SITE[=URI]",
        help="Writes go to the secondary at this site, too; may be given more than once. Without URI to the address that the "
        "volume's description names; {volume} in it stands for the volume's name.",
    ),
]
ForkModeOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--fork-mode",
        metavar="MODE",
        help="When a write is acknowledged: sync, when all secondaries in the fork have it; 'quorum N', when N of them do; "
        "async, at once.",
    ),
]


def fork_plans(given: Sequence[str], mode: str, volumes: Collection[Volume]) -> dict[str, ForkPlan]:
    """By volume; none where no fork is given. BadUse where a secondary has no address, or two volumes have one."""
    parsed = ForkMode.parse(mode)
    plans = {each.volume: ForkPlan(dict(_secondary(fork, each) for fork in given), parsed) for each in volumes}
    addresses = [address for plan in plans.values() for address in plan.secondaries.values()]
    if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise BadUse(
            "two secondaries have one address", where=twice[0], next="Write {volume} where their names differ."
        )
    return plans if given else {}


def _secondary(fork: str, volume: Volume) -> tuple[str, str]:
    site, is_given, address = fork.partition("=")
    if not is_given:
        address = volume.secondaries.get(site, "")
    if not site or not address:
        raise BadUse(
            f"volume {volume.volume} has no address for a secondary at '{site[:220]}'",
            next="Write --fork SITE=URI, or name it when the volume is created (--secondary SITE=URI).",
        )
    return site, address.replace("{volume}", volume.volume)


def fork_ports(call: Invocation, plans: Mapping[str, ForkPlan], stack: ExitStack) -> ForkPorts | None:
    """What a host needs for these; None where there is none."""
    if not plans:
        return None

    def hear(news: ForkNews) -> None:
        fields = {"volume": news.volume, "site": news.site, "state": news.state, "reason": news.reason}
        call.output.message("fork", fields)

    client, topics = call.settings.kafka_client(), call.settings.topics
    reader, admin = KafkaReader(client), KafkaAdmin(client)
    stack.callback(admin.close)
    stack.callback(reader.close)
    return ForkPorts(open_device, ThreadWorkers(), SiteReports(reader, admin, topics, SystemClock()), hear)
