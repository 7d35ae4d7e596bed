"""What the log says of the sessions on the host's volumes, beside what the state folder says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import Clock
from mirrorlog.producers.durable.activity_format import KnownPosition, VolumeActivity
from mirrorlog.producers.session.parts import SessionParts
from mirrorlog.producers.session.unvouched import Unvouched, find_unvouched
from mirrorlog.reading.changes_after import changes_after
from mirrorlog.reading.open_sessions import KnownSessions, SessionPorts, read_sessions


@dataclass(frozen=True, slots=True)
class SessionSearch:
    """Asks the log about the volumes of one session. host: the host's name."""

    host: str
    parts: SessionParts
    ports: SessionPorts
    clock: Clock

    @property
    def histories(self) -> Mapping[int, str]:
        """By partition, the id of its history, as read() last found it."""
        return self.parts.outbox.positions.histories

    def read(self, volumes: Mapping[str, Volume]) -> KnownSessions:
        """Read which sessions the volumes have. Raise what read_sessions() raises."""
        known = read_sessions(volumes, self.ports, self.parts.settings.topics, self.clock)
        by_partition = {volume.partition: name for name, volume in volumes.items()}
        with self.parts.lock:
            for partition, name in by_partition.items():
                self.enter(partition, known.partition_of(name).history_id)
        return known

    def enter(self, partition: int, history_id: str) -> None:
        """Let positions of the partition count in this history. Empty: the log doesn't say it.

        The caller holds the lock.
        """
        outbox = self.parts.outbox
        before = outbox.positions.histories.get(partition)
        if history_id and before and before != history_id:
            outbox.enter_history(partition, history_id)
        outbox.positions.read_history(partition, history_id)

    def lost_positions(
        self, volumes: Mapping[str, Volume], partitions: Collection[int]
    ) -> Mapping[int, tuple[int, int]]:
        """Return the positions that the state folder knows and the topic lacks.

        By partition: (the highest of them, where the topic ends). They count in the history that
        the partition has. Ask before the session publishes anything there: what it publishes hides
        what is gone. volumes: all descriptions, by name.
        Raise KafkaFailed, and what read() raises.
        """
        noted: defaultdict[int, list[KnownPosition]] = defaultdict(list)
        names: defaultdict[int, dict[str, Volume]] = defaultdict(dict)
        for name, activity in self.parts.log.state.volumes.items():
            known, volume = activity.known_through, volumes.get(name)
            if volume is not None and volume.partition in partitions and known and known.history:
                noted[volume.partition].append(known)
                names[volume.partition][name] = volume
        lost: dict[int, tuple[int, int]] = {}
        for partition, positions in noted.items():
            end = self.ports.admin.end_position(self.parts.settings.topics.commands, partition)
            gone = [known for known in positions if known.position >= end]
            if not gone:
                continue
            self.read(names[partition])
            history = self.histories[partition]
            counted = [known.position for known in gone if known.history == history]
            if counted:
                lost[partition] = max(counted), end
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
