"""The log of one volume as one site would read it now, complete through its commands."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.clock import Clock
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.heads import complete_through
from mirrorlog.tracking_log.keys import missed_log
from mirrorlog.tracking_log.site_log import SiteLog


@dataclass(frozen=True, slots=True)
class SiteLogNow:
    """log: complete through position `through`."""

    log: SiteLog
    through: int


def read_site_log(
    settings: Settings, volume: Volume, site: str, clock: Clock, patience_s: float
) -> SiteLogNow:
    """Read the log until it is complete through the commands that there are now.

    Raise KafkaFailed if it isn't within `patience_s`: no node runs, or it is far behind.
    """
    client, topics = settings.kafka_client(), settings.topics
    names = (volume.volume, missed_log(volume.volume, site))
    with closing(KafkaAdmin(client)) as admin, closing(KafkaReader(client)) as reader:
        needed = admin.end_position(topics.commands, volume.partition) - 1
        log = LogReader(reader, admin, topics.changelog, [volume.partition], site=site)
        until_s = clock.monotonic_s() + patience_s
        while True:
            log.poll(0.2, lambda record: record.volume in names)
            through = complete_through(log.watermarks.get(volume.partition), volume)
            through = max(through, volume.origin_position)
            if log.caught_up() and through >= needed:
                own, missed = (log.logs[name] for name in names)
                return SiteLogNow(SiteLog(own, missed, site), through)
            if clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"the log is complete through position {through}, and commands through "
                    f"{needed} wait for the node",
                    where=f"volume {volume.volume}",
                    next="Start a node (`mirrorlog node`) where it reaches the broker, then repeat "
                    "this. It needs nothing of the machine that is lost.",
                )
