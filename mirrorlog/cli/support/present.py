"""The overview of everything, read for one command and read again for the next look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.lookup import patience_for
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import Quarantined
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, BadUse, OutOfRetention, UnknownVolume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.last_commands import LastCommands
from mirrorlog.reading.present_state import PresentState, PresentStateReader
from mirrorlog.reading.read_through import read_range
from mirrorlog.settings import Settings
from mirrorlog.status.health import Thresholds
from mirrorlog.status.overview import Overview, QuarantineNews, evaluate

_PARTITION = 0
_LOOK_BACK = 10
"""The newest refused event is looked for in so many positions: the last may be a marker."""


@dataclass(frozen=True, slots=True)
class PresentView:
    """Reads the overview. volume, site: leave out the rows of others."""

    settings: Settings
    admin: KafkaAdmin
    reader: PresentStateReader
    thresholds: Thresholds
    volume: str | None
    site: str | None

    def look(self) -> Overview:
        """Return the overview as of now.

        Raise KafkaFailed if the broker doesn't answer, UnknownVolume if there is no such volume.
        """
        state = self.reader.refresh()
        self._check_volume(state)
        source = self.settings.kafka_mirror_of
        if source:
            state.reports_error = (
                f"hosts and workers report to cluster {source}, the mirror's source"
            )
        return evaluate(
            state,
            QuarantineNews(count=0) if source else self._quarantine(),
            partition_count=self.admin.partitions(self.settings.topics.changelog),
            now_us=SystemClock().now_us(),
            thresholds=self.thresholds,
            volume=self.volume,
            site=self.site,
        )

    def described(self) -> dict[str, Volume]:
        """Return the descriptions of the volumes that the view is about, by name.

        Raise as look().
        """
        state = self.reader.refresh()
        self._check_volume(state)
        return {
            name: volume
            for name, volume in state.volumes.items()
            if self.volume in (None, volume.volume)
        }

    def last_commands(self, volumes: Iterable[Volume]) -> dict[int, LastCommands]:
        """Return what reads the commands up to the last one as of now, by the volumes' partitions.

        Raise BadUse for a mirror, KafkaFailed.
        """
        self._refuse_mirror()
        topic, client = self.settings.topics.commands, self.settings.kafka_client()
        return {
            partition: LastCommands(
                lambda: KafkaReader(client),
                topic,
                partition,
                patience_for("reading the last commands"),
                through=self.admin.end_position(topic, partition) - 1,
            )
            for partition in {volume.partition for volume in volumes}
        }

    def reports(self, volume: str) -> list[SiteProgress]:
        """Return the last report of each site on the volume, as it was published, by site."""
        heard = self.reader.refresh().secondaries
        return [heard[key].report for key in sorted(heard) if key[1] == volume]

    def _refuse_mirror(self) -> None:
        if self.settings.kafka_mirror_of:
            raise BadUse(
                "a mirror doesn't say where the commands end",
                where="kafka_mirror_of",
                next=f"Ask the cluster {self.settings.kafka_mirror_of}.",
            )

    def _check_volume(self, state: PresentState) -> None:
        if self.volume is not None and self.volume not in state.volumes:
            raise UnknownVolume(
                f"there is no volume '{self.volume[:220]}'",
                next="`mirrorlog volume list` shows those that exist.",
            )

    def _quarantine(self) -> QuarantineNews:
        topic, client = self.settings.topics.quarantine, self.settings.kafka_client()
        first, end = self.admin.bounds(topic, _PARTITION)
        newest: Quarantined | None = None
        if end > first:
            patience = patience_for("reading the newest refused event")
            start = max(first, end - _LOOK_BACK)
            with suppress(OutOfRetention, BadInput):
                for message in read_range(
                    lambda: KafkaReader(client), topic, _PARTITION, patience, start=start, end=end
                ):
                    newest = decode(message.value or b"", Quarantined)
        if newest is None:
            return QuarantineNews(count=end - first)
        return QuarantineNews(
            count=end - first,
            newest_at_us=newest.at_us,
            reason=newest.reason,
            text=newest.text,
            partition=newest.partition,
            position=newest.position,
        )


@contextmanager
def open_present(
    settings: Settings,
    thresholds: Thresholds,
    *,
    volume: str | None = None,
    site: str | None = None,
) -> Iterator[PresentView]:
    """Open what reads the overview, and close it."""
    client = settings.kafka_client()
    with closing(KafkaAdmin(client)) as admin:
        reader = PresentStateReader(
            lambda: KafkaReader(client),
            admin,
            settings.topics,
            SystemClock(),
            only_volume=volume,
        )
        with closing(reader):
            yield PresentView(settings, admin, reader, thresholds, volume, site)
