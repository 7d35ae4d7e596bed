"""The catalog knows every volume that was described before refresh(), and has one error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event, Thread

import pytest
from deadlines import DEADLINE_S
from notation import volume

from mirrorlog.adapters.http.error_responses import status_of
from mirrorlog.codec.events import encode
from mirrorlog.errors import (
    BadInput,
    ExitCode,
    KafkaFailed,
    UnknownVolume,
    WrongCluster,
    exit_code_of,
)
from mirrorlog.ports.streams import Message
from mirrorlog.reading.catalog import Catalog, publish_new_volume, publish_volume
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.topics import Topics

TOPICS = Topics()


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    publisher = broker.publisher()
    publish_volume(publisher, TOPICS, volume())
    publisher.flush(0)
    return broker


def test_an_unknown_volume_is_one_error_whichever_way_it_is_asked_for(broker: MemoryBroker) -> None:
    catalog = Catalog(broker.reader(), broker, TOPICS, ManualClock())
    with pytest.raises(UnknownVolume):
        catalog.volume_named("v")
    catalog.refresh()
    assert catalog.volume_named("v") == volume()
    with pytest.raises(UnknownVolume) as caught:
        catalog.volume_named("w" * 300)
    assert caught.value.what == f"there is no volume '{'w' * 220}'"
    assert exit_code_of(caught.value) is ExitCode.BAD_USE
    assert status_of(caught.value) == 404
    assert caught.value.as_message()["code"] == "UnknownVolume"


@pytest.mark.parametrize("read", [Catalog.refresh, lambda catalog: catalog.poll(0)])
def test_a_mirror_of_the_topics_on_another_cluster_is_refused(
    broker: MemoryBroker, read: Callable[[Catalog], None]
) -> None:
    mirror = MemoryBroker(cluster_id="another")
    mirror.create(TOPICS.specs(single_copy=True), 1)
    for cluster in (broker, mirror):
        described = replace(volume(name="w"), cluster=broker.cluster_id())
        cluster.append(TOPICS.volumes, 0, b"w", encode(described))
    read(Catalog(broker.reader(), broker, TOPICS, ManualClock()))
    with pytest.raises(WrongCluster, match=r"cluster is another, .* those of cluster memory") as e:
        read(Catalog(mirror.reader(), mirror, TOPICS, ManualClock()))
    assert "volume w" in str(e.value)
    assert exit_code_of(e.value) is ExitCode.BAD_USE


class SilentReader(MemoryReader):
    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> list[Message]:
        return []


@pytest.mark.parametrize("kind", [Catalog, SiteReports])
def test_a_refresh_gives_up(
    broker: MemoryBroker, kind: Callable[..., Catalog | SiteReports]
) -> None:
    broker.append(TOPICS.progress, 0, b"k", None)
    clock = ManualClock(look_s=1)
    with pytest.raises(KafkaFailed, match="got no further for 30 s"):
        kind(SilentReader(broker), broker, TOPICS, clock).refresh()
    assert 30 < clock.now_s < 40


# descriptions, as epoch:described position, in the order of their messages | the one that counts
ORDERS = """
0:-1 0:7     | 0:7
0:7 0:-1     | 0:7
0:900 1:2    | 1:2
1:2 0:900    | 1:2
1:2 1:3 2:-1 | 2:-1
"""


@pytest.mark.parametrize("case", ORDERS.strip().splitlines())
def test_a_description_of_an_earlier_history_never_wins(broker: MemoryBroker, case: str) -> None:
    catalog = Catalog(broker.reader(), broker, TOPICS, ManualClock())
    published, expected = (part.strip() for part in case.split("|"))
    for text in published.split():
        epoch, position = (int(number) for number in text.split(":"))
        catalog.take(volume(epoch=epoch, described_position=position))
    taken = catalog["v"]
    assert f"{taken.epoch}:{taken.described_position}" == expected


@pytest.mark.parametrize(("behind_s", "created_s"), [(0, 1000), (5, 995), (7200, 1000)])
def test_a_volume_isnt_older_than_the_broker_says(behind_s: int, created_s: int) -> None:
    broker = MemoryBroker(clock=ManualClock(now_s=1000))
    broker.create(TOPICS.specs(single_copy=True), 1)
    mine = volume(created_at_us=(1000 - behind_s) * 10**6)
    published = publish_new_volume(broker.publisher(), TOPICS, mine, 1)
    assert published.created_at_us == created_s * 10**6
    catalog = Catalog(broker.reader(), broker, TOPICS, ManualClock())
    catalog.refresh()
    assert catalog["v"] == published


class PausingReader(MemoryReader):
    """A reader whose messages can be gone through only when `goes_on` is set."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.is_reading, self.goes_on = Event(), Event()

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        return PausedMessages(super().poll(timeout_s, max_messages=max_messages), self)


class PausedMessages(list[Message]):
    """The messages of one poll of a PausingReader."""

    def __init__(self, messages: Sequence[Message], reader: PausingReader) -> None:
        super().__init__(messages)
        self._reader = reader

    def __iter__(self) -> Iterator[Message]:
        self._reader.is_reading.set()
        assert self._reader.goes_on.wait(DEADLINE_S)
        return super().__iter__()


def test_a_volume_is_known_after_a_refresh_also_while_another_thread_refreshes(
    broker: MemoryBroker,
) -> None:
    """Two partitions of a node refresh at once: neither may refuse the command of a new volume."""
    reader = PausingReader(broker)
    catalog = Catalog(reader, broker, TOPICS, ManualClock())
    known: list[bool] = []

    def refresh() -> None:
        catalog.refresh()
        known.append("v" in catalog)

    first, second = Thread(target=refresh), Thread(target=refresh)
    first.start()
    assert reader.is_reading.wait(DEADLINE_S)
    second.start()
    second.join(0.2)  # time for a refresh that doesn't wait for the other one
    reader.goes_on.set()
    for thread in (first, second):
        thread.join(DEADLINE_S)
    assert known == [True, True]


def test_descriptions_can_be_taken_while_another_thread_goes_through_all(
    broker: MemoryBroker,
) -> None:
    catalog = Catalog(broker.reader(), broker, TOPICS, ManualClock())
    catalog.refresh()
    for name in catalog:
        catalog.take(replace(volume(), volume=f"{name}-2"))
    assert sorted(catalog) == ["v", "v-2"]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b", ".hidden", "v" * 201, "a\nb"])
def test_a_description_whose_name_could_be_no_file_is_refused(
    broker: MemoryBroker, name: str
) -> None:
    broker.append(TOPICS.volumes, 0, b"k", encode(volume(name)))
    catalog = Catalog(broker.reader(), broker, TOPICS, ManualClock())
    with pytest.raises(BadInput, match="can't name a volume"):
        catalog.refresh()
    assert name not in catalog
