"""The Kafka clients of questions: each question has its own, and the next one takes them over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from mirrorlog.errors import KafkaFailed
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.catalog import Catalog


@dataclass(frozen=True, slots=True)
class QueryClients:
    """The clients of one question. One thread uses it at a time: nothing in it is thread-safe.

    open_reader: opens a reader, which the caller closes.
    close:       closes the catalog and the admin client.
    """

    catalog: Catalog
    admin: TopicAdmin
    open_reader: Callable[[], TopicReader]
    close: Callable[[], None]


class ClientPool:
    """Makes clients when all others are in use, and keeps those that are free.

    There are never more than questions that ran at the same time.
    """

    def __init__(self, make: Callable[[], QueryClients]) -> None:
        self._make = make
        self._free: SimpleQueue[QueryClients] = SimpleQueue()

    @contextmanager
    def borrow(self) -> Iterator[QueryClients]:
        """Yield clients for the calling thread. They are closed, not kept, after a KafkaFailed."""
        try:
            clients = self._free.get_nowait()
        except Empty:
            clients = self._make()
        try:
            yield clients
        except KafkaFailed:
            clients.close()
            raise
        except BaseException:
            self._free.put(clients)
            raise
        self._free.put(clients)

    def close(self) -> None:
        """Close the clients that no thread uses."""
        with suppress(Empty):
            while True:
                self._free.get_nowait().close()
