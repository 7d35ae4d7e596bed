"""Clients that write through docker-compose.yml's services, and know what was acknowledged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from threading import Event, Thread

from composing import NBD_PORTS, Compose
from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as KafkaMessage
from deadlines import DEADLINE_S, wait_until
from notation import command

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import parse_nbd_uri
from mirrorlog.codec.events import encode
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.read_through import ReadPatience, read_through
from mirrorlog.settings import Settings


class WritingClient(ABC):
    """Writes from a thread, again and again. A client writes in one block only."""

    def __init__(self) -> None:
        self._stop = Event()
        self._thread = Thread(target=self._run)

    @property
    @abstractmethod
    def count(self) -> int:
        """How many writes were acknowledged."""

    @abstractmethod
    def _write(self) -> None:
        """Write once, at a pace."""

    @abstractmethod
    def _finish(self) -> None:
        """Make sure of all that was written."""

    def _run(self) -> None:
        while not self._stop.is_set():
            self._write()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write while the block runs, then wait until all is acknowledged."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), f"a write of {self} hangs"
        self._finish()

    def wait_for_more(self, more: int = 50) -> None:
        """Return when so many more writes were acknowledged."""
        wanted = self.count + more
        wait_until(lambda: self.count >= wanted, self._check)

    def _check(self) -> None:
        assert self._thread.is_alive(), f"{self} has ended"


class VolumeClient(WritingClient):
    """An NBD client that writes to a volume of the file at random, by a seed.

    content: what the volume must hold by its writes.
    """

    def __init__(self, compose: Compose, volume: str, seed: int) -> None:
        super().__init__()
        uri = parse_nbd_uri(f"nbd://127.0.0.1:{compose.ports[NBD_PORTS[volume]]}/")
        self.volume, self._written = volume, 0
        self._device = NbdDevice(uri, writable=True)
        self.content = bytearray(self._device.size_bytes)
        self._random = Random(seed)

    def __str__(self) -> str:
        return f"the client of {self.volume}"

    @property
    def count(self) -> int:
        """How many writes were acknowledged."""
        return self._written

    def _write(self) -> None:
        length = 512 * self._random.randrange(1, 64)
        offset = 512 * self._random.randrange((len(self.content) - length) // 512)
        data = self._random.randbytes(length)
        self._device.pwrite(offset, data)
        self.content[offset : offset + length] = data
        self._written += 1
        self._stop.wait(0.002)

    def _finish(self) -> None:
        self._device.flush()
        self._device.close()


class CommandClient(WritingClient):
    """A client that publishes commands of no session for a volume.

    sent: the bytes of each command, in order. acknowledged: those of them that Kafka acknowledged,
    with their positions; None where the broker didn't say which. acks: librdkafka's setting; with 1
    the leader alone acknowledges, which mirrorlog never asks for.
    """

    def __init__(self, settings: Settings, volume: Volume, *, acks: str = "all") -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.acknowledged: list[tuple[int | None, bytes]] = []
        self._settings, self._volume = settings, volume
        self.topic, self.partition = settings.topics.commands, volume.partition
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "acks": acks,
                "enable.idempotence": acks == "all",
                "message.timeout.ms": 0,
                "log_level": 0,  # it prints each failed connection
            }
        )

    def __str__(self) -> str:
        return f"the client that publishes for {self._volume.volume}"

    @property
    def count(self) -> int:
        """How many commands were acknowledged."""
        return len(self.acknowledged)

    def _write(self) -> None:
        number, volume = len(self.sent), self._volume
        made = command(
            f"{number % 1000 * 4096}+4096",
            name=volume.volume,
            sequence=-1,
            generation=volume.generation,
            session="none",
            first_at_us=number,
            last_at_us=number,
        )
        value = encode(made)

        def delivered(error: KafkaError | None, message: KafkaMessage) -> None:
            assert error is None, error
            self.acknowledged.append((message.offset(), value))

        self.sent.append(value)
        self._producer.produce(self.topic, value, b"k", self.partition, on_delivery=delivered)
        self._producer.poll(0.005)

    def _finish(self) -> None:
        assert self._producer.flush(DEADLINE_S) == 0
        assert len(self.acknowledged) == len(self.sent)

    def losses(self) -> list[str]:
        """Return what the topic shows against "each acknowledged command once, and in order"."""
        topic, partition = self.topic, self.partition
        admin = KafkaAdmin(self._settings.kafka_client())
        reader = KafkaReader(self._settings.kafka_client())
        reader.assign(topic, {partition: None})
        ends = {partition: admin.end_position(topic, partition)}
        patience = ReadPatience(SystemClock(), DEADLINE_S, "the commands can't be read")
        held = {
            message.position: message.value or b""
            for message in read_through(reader, topic, ends, patience)
        }
        reader.close()
        admin.close()
        mine = set(self.sent)
        order = [value for _, value in sorted(held.items()) if value in mine]
        lost = [
            f"position {position} doesn't hold what was acknowledged there"
            for position, value in self.acknowledged
            if position is not None and held.get(position) != value
        ]
        return lost + ([] if order == self.sent else [f"{len(order)} of {len(self.sent)} in order"])
