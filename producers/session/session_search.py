"""What the log says of the sessions on the host's volumes, beside what the state folder says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import Clock
from mirrorlog.producers.durable.activity_format import VolumeActivity
from mirrorlog.producers.session.parts import SessionParts
from mirrorlog.producers.session.unvouched import Unvouched, find_unvouched
from mirrorlog.reading.changes_after import changes_after
from mirrorlog.reading.open_sessions import KnownSessions, SessionPorts, read_sessions


@dataclass(frozen=True, slots=True)
class SessionSearch:
    """Asks the log about the volumes of one session.

    host: the host's name.
    histories: by partition, the id of its history, as read() last found it.
    """

    host: str
    parts: SessionParts
    ports: SessionPorts
    clock: Clock
    histories: dict[int, str] = field(default_factory=dict)

    def read(self, volumes: Mapping[str, Volume]) -> KnownSessions:
        """Read which sessions the volumes have. Raise what read_sessions() raises."""
        known = read_sessions(volumes, self.ports, self.parts.settings.topics, self.clock)
        self.histories.update(
            {
                volume.partition: known.partition_of(name).history_id
                for name, volume in volumes.items()
            }
        )
        return known

    def lost_positions(
        self, known: KnownSessions, volumes: Mapping[str, Volume]
    ) -> Mapping[int, int]:
        """Return the positions that the state folder knows and the topic lacks, by partition.

        Each is the highest of its partition, in the history that the partition has.
        """
        lost: dict[int, int] = {}
        for name, volume in volumes.items():
            noted, partition = self.parts.log.state.volumes[name].known_through, volume.partition
            if noted is None or not noted.history:
                continue
            is_lost = noted.position >= known.partition_of(name).end
            if is_lost and noted.history == self.histories[partition]:
                lost[partition] = max(noted.position, lost.get(partition, noted.position))
        return lost

    def unvouched(
        self,
        known: KnownSessions,
        volumes: Mapping[str, Volume],
        activities: Mapping[str, VolumeActivity],
    ) -> dict[str, Unvouched]:
        """Return what the host can't vouch for of the volumes (unvouched.find_unvouched)."""

        def find_changes(positions: Mapping[str, int]) -> Mapping[str, BlockSet | None]:
            topics = self.parts.settings.topics
            return changes_after(positions, volumes, self.ports, topics, self.clock)

        return find_unvouched(
            self.host,
            volumes.values(),
            activities,
            self.parts.log.state.lost,
            known,
            find_changes,
            region_bytes=self.parts.settings.region_bytes,
        )
