"""A former primary follows the new one: what its host left is published, and its site described."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.domain.primary_marks import PrimaryMark
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, KafkaFailed, MirrorlogError
from mirrorlog.producers.durable.activity_log import read_previous_log
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.wiring import HostWiring
from mirrorlog.reading.catalog import publish_volume
from mirrorlog.settings import Settings

_PUBLISH_S: Final = 60.0
_ATTEMPTS: Final = 5


class HostNotRecovered(MirrorlogError):
    """The log doesn't name all that the host of a former primary wrote to it."""


def publish_leftovers(
    call: Invocation,
    volume: Volume,
    address: str,
    mark: PrimaryMark,
    promotion: Promotion,
    host: str,
) -> None:
    """Let the log name everything that a host wrote to a former primary.

    1. The host's activity log must cover the volume, on this primary. It says which regions may
       hold writes that no command names.
    2. A session of the host publishes these regions as dirty, under the generation that the
       promotion ended, and ends.
    3. The activity log then holds nothing of the volume that isn't published.

    address, mark: of the former primary. promotion: the one that ended its time.
    Raise HostNotRecovered if one of this isn't so, BadUse if the host runs, and KafkaFailed.
    """
    folder = DiskFolder(call.settings.state_dir / "host" / host)
    before, name = read_previous_log(folder), volume.volume
    activity = before.state.volumes.get(name)
    where = f"volume {name}, host {host}, {call.settings.state_dir / 'host' / host}"
    is_covered = activity is not None and activity.covered and not before.damaged
    if not is_covered or activity is None or activity.primary_id not in ("", mark.primary_id):
        raise HostNotRecovered(
            "nobody knows what was written to this copy and never published: the activity log of "
            "its host isn't here, is damaged, or is about another primary",
            where=where,
            next="Name the host with --host, and its state folder with --state-dir. If they are "
            "lost: --all copies everything.",
        )
    if name in before.volumes:
        former = replace(
            volume,
            generation=promotion.former_generation,
            primary=address,
            primary_id=None,
        )
        with ExitStack() as stack:
            wiring = HostWiring(host, call.settings, stack)
            volumes: Mapping[str, Volume] = {**wiring.read_catalog(), name: former}
            wiring.start_host(volumes, forks={}, report=call.output.print_note).close()
    if name in read_previous_log(folder).volumes:
        raise HostNotRecovered(
            "the host's activity log still holds writes that aren't published",
            where=where,
            next="Mend what the lines above say, then run this again. --all copies everything.",
        )


def publish_secondary(settings: Settings, volume: Volume, site: str, address: str) -> Volume:
    """Publish the description with the address of a site's secondary; return it.

    The node may publish a description at the same moment. The newest one is read again then, and
    published with the address. Raise KafkaFailed if that doesn't come to an end.
    """
    for _ in range(_ATTEMPTS):
        if volume.secondaries.get(site) == address:
            return volume
        described = replace(volume, secondaries={**volume.secondaries, site: address})
        publisher = KafkaPublisher(settings.kafka_client())
        try:
            publish_volume(publisher, settings.topics, described)
            publisher.flush(_PUBLISH_S)
        finally:
            publisher.close()
        volume = find_volume(settings, volume.volume)
    raise KafkaFailed(
        "the volume's description changes faster than it can be published",
        where=f"volume {volume.volume}",
        next="Try again.",
    )


def check_site_is_free(volume: Volume, site: str) -> None:
    """Raise BadUse if the site is the one whose secondary is the primary now."""
    if volume.primary_site == site:
        raise BadUse(
            "the secondary of this site is the volume's primary now",
            where=f"volume {volume.volume} at {site}",
            next="Name the site that is to keep the former primary.",
        )
