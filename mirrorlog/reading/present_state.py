"""The present state of everything, by one pass over the compacted topics.

It is what `mirrorlog status` and `mirrorlog check` show: the volumes that exist, the last report of
each secondary, who runs which site, and the last reports of hosts and of the node's workers.

A compacted topic may hold many messages of a key until it is compacted. Of each key only the last
one is decoded, because decoding costs more than reading. Descriptions of volumes are the exception:
the last one isn't always the newest (Catalog).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar

from mirrorlog.codec.events import decode
from mirrorlog.domain.archive_reports import ArchiveReport
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.reports import HostReport, NodeReport
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.verifications import VerificationReport
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput, KafkaFailed, OutOfRetention, name_in_words
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import Message, TopicAdmin, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_through
from mirrorlog.topics import Topics

Report = TypeVar("Report")
Place = TypeVar("Place")
Item = TypeVar("Item")
SiteAndVolume: TypeAlias = tuple[str, str]
HostAndVolume: TypeAlias = tuple[str, str]
RepositoryAndVolume: TypeAlias = tuple[str, str]
_Address: TypeAlias = tuple[str, bytes]
"""The topic and the key of a message."""

_PARTITION: Final = 0


@dataclass(frozen=True, slots=True)
class Reported(Generic[Report]):
    """The last report of a key.

    appended_at_us: when the broker appended it, microseconds since 1970; None if the topic holds
        the times of its producers.
    """

    report: Report
    appended_at_us: int | None


@dataclass(slots=True)
class PresentState:
    """What the topics say now. The reader that returned it keeps it up to date.

    volumes: the descriptions, by name.
    secondaries: the last reports, by (site, volume).
    leases: by site. A site publishes its lease every few seconds (name_fence.BEAT_S), also while it
        copies, so the age of the message tells whether the site runs.
    hosts: by (host, volume).
    nodes: by worker.
    archives: by address.
    backups: by the repository's id and the volume.
    verifications: the last verification of each secondary, by (site, volume).
    unreadable: by topic and key, why the last message can't be read: it is damaged, or of a newer
        release. Nothing else is known of its key.
    reports_error: why `hosts`, `nodes`, `archives` and `verifications` are unknown; None if they
        are known. Clusters that were made for an older release have no topic for them.
    """

    volumes: dict[str, Volume] = field(default_factory=dict)
    secondaries: dict[SiteAndVolume, Reported[SiteProgress]] = field(default_factory=dict)
    leases: dict[str, Reported[SiteLease]] = field(default_factory=dict)
    hosts: dict[HostAndVolume, Reported[HostReport]] = field(default_factory=dict)
    nodes: dict[str, Reported[NodeReport]] = field(default_factory=dict)
    archives: dict[str, Reported[ArchiveReport]] = field(default_factory=dict)
    backups: dict[RepositoryAndVolume, Reported[BackupReport]] = field(default_factory=dict)
    verifications: dict[SiteAndVolume, Reported[VerificationReport]] = field(default_factory=dict)
    unreadable: dict[_Address, str] = field(default_factory=dict)
    reports_error: str | None = None


class PresentStateReader:
    """Reads the present state, and follows it. One thread calls it.

    open_reader: opens a reader of any topic. close() closes what it opened.
    patience_s: how long refresh() waits for a broker that doesn't answer.
    only_volume: if given, only what is about this volume is decoded, beside leases and nodes.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topics: Topics,
        clock: Clock,
        patience_s: float = 30.0,
        *,
        only_volume: str | None = None,
    ) -> None:
        self._admin: Final = admin
        patience = ReadPatience(clock, patience_s, "reading the present state")
        self._described: Final = _CompactedTopics(
            open_reader,
            admin,
            (topics.volumes, topics.progress),
            patience,
            optional=topics.all_progress[1:],
        )
        self._reports: Final = _CompactedTopics(
            open_reader, admin, (topics.reports,), patience, optional=(topics.verifications,)
        )
        self._taker: Final = _StateTaker(topics.volumes, only_volume)

    def refresh(self) -> PresentState:
        """Return the state by every message that was published before the call.

        Raise KafkaFailed if the broker doesn't answer. That the reports of hosts and workers can't
        be read is no error (PresentState.reports_error).
        """
        self._taker.take(self._described)
        state = self._taker.state
        try:
            self._taker.take(self._reports)
            state.reports_error = None
        except KafkaFailed as error:
            self._reports.close()
            self._taker.forget_all(self._reports.names)
            state.reports_error = str(error)
        return state

    def close(self) -> None:
        """Close the readers."""
        self._described.close()
        self._reports.close()


class _CompactedTopics:
    """The one partition of each of several compacted topics, read by one reader.

    The reader is opened when the topics are first read, and again after close().

    optional: further topics, which are left out if the cluster lacks them when it is opened.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topics: tuple[str, ...],
        patience: ReadPatience,
        *,
        optional: tuple[str, ...] = (),
    ) -> None:
        self._open_reader, self._admin = open_reader, admin
        self._needed, self._optional = topics, optional
        self.names, self._patience = topics, patience
        self._reader: TopicReader | None = None

    def read_to_end(self) -> Iterable[Message]:
        """Yield what is new, through the ends that the topics have now.

        Raise KafkaFailed as read_through, and if there is no such topic. OutOfRetention: a topic
        was made anew; the next call reads everything again.
        """
        if self._reader is None:
            for topic in self._needed:
                self._admin.partitions(topic)  # its error says what to do if there is no such topic
            existing = self._admin.names("") if self._optional else set[str]()
            self.names = (*self._needed, *(name for name in self._optional if name in existing))
            self._reader = self._open_reader()
            for topic in self.names:
                self._reader.assign(topic, {_PARTITION: None})
        ends = {topic: self._admin.end_position(topic, _PARTITION) for topic in self.names}
        for topic, end in ends.items():
            if self._reader.reached(topic, _PARTITION) > end:
                raise OutOfRetention("the topic ends below what was read", where=f"topic {topic}")
            # The reader returns messages of all its topics.
            yield from read_through(self._reader, topic, {_PARTITION: end}, self._patience)

    def close(self) -> None:
        """Close the reader."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _StateTaker:
    """Takes messages into a PresentState: `state`."""

    def __init__(self, volumes_topic: str, only_volume: str | None) -> None:
        self.state: Final = PresentState()
        self._volumes_topic: Final = volumes_topic
        self._only: Final = None if only_volume is None else only_volume.encode()
        self._places: Final[dict[_Address, tuple[dict[Any, Any], object]]] = {}

    def take(self, topics: _CompactedTopics) -> None:
        """Take what is new in the topics. Raise KafkaFailed as _CompactedTopics.read_to_end."""
        try:
            self._take_new(topics)
        except OutOfRetention:
            topics.close()
            self.forget_all(topics.names)
            self._take_new(topics)

    def _take_new(self, topics: _CompactedTopics) -> None:
        last: dict[_Address, Message] = {}
        try:
            for message in topics.read_to_end():
                if message.key is None or not self._is_wanted(message.topic, message.key):
                    continue
                if message.topic == self._volumes_topic:
                    self._take_message(message)
                else:
                    last[message.topic, message.key] = message
        finally:  # the reader doesn't return again what it has returned before an error
            for message in last.values():
                self._take_message(message)

    def _is_wanted(self, topic: str, key: bytes) -> bool:
        if self._only is None:
            return True
        if topic == self._volumes_topic:
            return key == self._only
        # The key of a lease ends with a slash. Workers and archives count for every volume.
        return key.endswith((b"/" + self._only, b"/")) or key.startswith((b"node/", b"archive/"))

    def _take_message(self, message: Message) -> None:
        assert message.key is not None
        address = (message.topic, message.key)
        if message.value is None:
            self._forget(address)
            return
        try:
            event = decode(message.value, object)
        except BadInput as error:
            self._forget(address)
            self.state.unreadable[address] = str(error)
            return
        self.state.unreadable.pop(address, None)
        self._take_event(address, event, message.at_us if message.by_broker else None)

    def _take_event(self, address: _Address, event: object, at_us: int | None) -> None:
        state = self.state
        match event:
            case Volume():
                known = state.volumes.get(event.volume)
                if known is None or known.description_order <= event.description_order:
                    self._keep(address, state.volumes, event.volume, event)
            case SiteProgress():
                place = (event.site, event.volume)
                self._keep(address, state.secondaries, place, Reported(event, at_us))
            case BackupReport():
                place = (event.repository, event.volume)
                self._keep(address, state.backups, place, Reported(event, at_us))
            case SiteLease():
                self._keep(address, state.leases, event.site, Reported(event, at_us))
            case HostReport():
                place = (event.host, event.volume)
                self._keep(address, state.hosts, place, Reported(event, at_us))
            case NodeReport():
                self._keep(address, state.nodes, event.node, Reported(event, at_us))
            case ArchiveReport():
                self._keep(address, state.archives, event.archive, Reported(event, at_us))
            case VerificationReport():
                place = (event.site, event.volume)
                self._keep(address, state.verifications, place, Reported(event, at_us))
            case _:
                state.unreadable[address] = f"a {name_in_words(type(event))} doesn't belong there"

    def _keep(self, address: _Address, known: dict[Place, Item], place: Place, item: Item) -> None:
        known[place] = item
        self._places[address] = (known, place)

    def _forget(self, address: _Address) -> None:
        self.state.unreadable.pop(address, None)
        if (kept := self._places.pop(address, None)) is not None:
            known, place = kept
            known.pop(place, None)

    def forget_all(self, topics: Iterable[str]) -> None:
        """Forget what was taken from these topics."""
        gone = [address for address in self._places if address[0] in topics]
        gone += [address for address in self.state.unreadable if address[0] in topics]
        for address in gone:
            self._forget(address)
