"""What one question at a time has of Kafka: clients of its own, kept for the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.errors import KafkaFailed, MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.catalog import Catalog
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True)
class QueryClients:
    """One thread's at a time: neither a catalog nor a client is made for two."""

    catalog: Catalog
    admin: TopicAdmin
    open_reader: Callable[[], TopicReader]
    close: Callable[[], None]


class ClientPool:
    """As many as there are questions at a time; none before the first."""

    def __init__(self, make: Callable[[], QueryClients]) -> None:
        self._make = make
        self._free: SimpleQueue[QueryClients] = SimpleQueue()

    @contextmanager
    def desk(self) -> Iterator[QueryClients]:
        """A desk for one thread; one at which Kafka failed isn't used again."""
        try:
            desk = self._free.get_nowait()
        except Empty:
            desk = self._make()
        try:
            yield desk
        except KafkaFailed:
            desk.close()
            raise
        except BaseException:
            self._free.put(desk)
            raise
        self._free.put(desk)

    def close(self) -> None:
        """Closes those that nobody uses."""
        with suppress(Empty):
            while True:
                self._free.get_nowait().close()


def kafka_query_clients(settings: Settings, clock: Clock, patience_s: float) -> QueryClients:
    """Clients of the settings' cluster."""
    client = settings.kafka_client()
    admin = KafkaAdmin(client, patience_s)
    try:
        catalog = Catalog(
            KafkaReader(client, patience_s), admin, settings.topics, clock, patience_s
        )
    except MirrorlogError:
        admin.close()
        raise

    def close() -> None:
        catalog.close()
        admin.close()

    return QueryClients(catalog, admin, lambda: KafkaReader(client, patience_s), close)
