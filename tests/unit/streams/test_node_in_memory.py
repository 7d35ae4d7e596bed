"""A whole node, put together as `run_node` does, on an engine in memory: without Faust or Kafka."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from deadlines import until
from memory_nodes import memory_node
from notation import command, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import ChangelogRefused
from mirrorlog.ports.clock import SystemClock
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_engine import MemoryEngine, MemoryStore
from mirrorlog.streams.wiring import group_name
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.publication_delays import PublicationDelays

PARTITIONS = 2


class Cluster:
    """A broker with volumes "v" in partition 0 and "w" in partition 1, and the node's workers."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(state_dir=folder, partitions=PARTITIONS, node_flush_s=0.001)
        self.topics, self.broker = self.settings.topics, MemoryBroker(clock=SystemClock())
        self.broker.create(self.topics.specs(single_copy=True), PARTITIONS)
        self.ready: list[list[int]] = []
        self.errors: list[BaseException] = []
        self.sent = dict.fromkeys("vw", 0)
        for number, name in enumerate("vw"):
            described: Volume = volume(name, partition=number)
            self.broker.append(self.topics.volumes, 0, name.encode(), encode(described))

    def write(self, name: str, text: str) -> None:
        event = command(text, name, sequence=self.sent[name])
        self.sent[name] += 1
        self.broker.append(self.topics.commands, "vw".index(name), name.encode(), encode(event))

    def worker(self, store: MemoryStore | None = None) -> MemoryEngine:
        def abort(error: BaseException) -> NoReturn:
            self.errors.append(error)
            raise SystemExit

        return memory_node(
            self.settings,
            self.broker,
            abort=abort,
            on_ready=lambda partitions: self.ready.append(list(partitions)),
            store=store,
        )

    def committed(self) -> list[int | None]:
        group = group_name(self.settings)
        return list(self.broker.committed_positions(group, self.topics.commands).values())

    def changed(self, name: str) -> set[int]:
        """Return the blocks that the log names, as a site reads it; it has no hole."""
        reader = LogReader(self.broker.reader(), self.broker, self.topics.changelog)
        while not reader.caught_up():
            reader.poll(0)
        log, through = reader.logs[name], self.sent[name] - 1
        assert log.hole(after=-1, through=through) is None
        return set(log.changed(after=-1, through=through))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield Cluster(tmp_path)
    # A task that SystemExit ended logs its traceback when it is collected, and Python formats that
    # by ast.parse. If another test's ast.parse is under way, that one fails (CPython 3.11).
    gc.collect()


async def fold(cluster: Cluster, engine: MemoryEngine, *names: str) -> None:
    """Fetch, and wait until the log holds all commands of the volumes."""
    engine.fetch()
    expected = engine.work.positions.expected_position
    await until(lambda: all(expected("vw".index(n)) == cluster.sent[n] for n in names))


def test_a_node_folds_commits_and_stops(cluster: Cluster) -> None:
    cluster.write("v", "0+4096")
    cluster.write("v", "8192+4096")
    cluster.write("w", "4096+4096")
    cluster.worker().run()
    assert (cluster.changed("v"), cluster.changed("w")) == ({0, 2}, {1})
    assert (cluster.committed(), cluster.ready, cluster.errors) == ([2, 1], [[0, 1]], [])


def test_the_log_says_how_long_after_their_writes_commands_were_appended(
    cluster: Cluster,
) -> None:
    cluster.settings = cluster.settings.model_copy(update={"node_tiers_s": (1, 60, 3600)})

    def delays() -> list[PublicationDelays]:
        return [
            decode(message.value, PublicationDelays)
            for message in cluster.broker.messages(cluster.topics.changelog)
            if message.value is not None and key_kind(message.key or b"") is PublicationDelays
        ]

    async def test() -> None:
        engine = cluster.worker()
        await engine.assign([0, 1])
        for text in ("0+4096", "8192+4096", "4096+4096"):
            cluster.write("v", text)
            await fold(cluster, engine, "v")
        await until(lambda: any(part.through == 2 for part in delays()))
        await engine.stop()

    asyncio.run(test())
    first = delays()[0]
    last = next(part for part in delays() if part.through == 2)
    assert (first.partition, first.after) == (0, -1)
    first_at_us = decode(encode(command("0+4096", "v")), TrackingCommand).first_at_us
    (appended,) = [
        message.at_us // 1000 * 1000
        for message in cluster.broker.messages(cluster.topics.commands)
        if message.position == last.through and message.partition == 0
    ]
    assert (last.last_appended_us, last.longest_us) == (appended, appended - first_at_us)
    assert last.first_appended_us <= appended


def test_what_was_not_committed_is_folded_again_by_the_next_worker(cluster: Cluster) -> None:
    async def test() -> None:
        first, second = cluster.worker(), cluster.worker()
        cluster.write("v", "0+4096")
        await first.assign([0, 1])
        await fold(cluster, first, "v")
        await second.assign([0, 1])  # the first is dead, and has committed nothing
        cluster.write("v", "4096+4096")
        await fold(cluster, second, "v")
        second.commit()
        assert cluster.changed("v") == {0, 1}
        assert cluster.committed() == [2, 0]
        await first.stop()
        await second.stop()

    asyncio.run(test())


def test_a_partition_that_is_taken_away_is_neither_folded_nor_committed(cluster: Cluster) -> None:
    async def test() -> None:
        first, second = cluster.worker(), cluster.worker()
        await first.assign([0, 1])
        await first.assign([0])
        await second.assign([1])
        cluster.write("v", "0+4096")
        cluster.write("w", "0+4096")
        await fold(cluster, first, "v")
        first.commit()
        assert cluster.committed() == [1, 0]
        assert first.work.positions.committable_offset(1) is None
        await fold(cluster, second, "w")
        second.commit()
        assert cluster.committed() == [1, 1]
        assert cluster.ready == [[0, 1], [0], [1]]
        await first.stop()
        await second.stop()

    asyncio.run(test())


def test_a_worker_that_lost_its_disk_reads_its_table_from_the_changelog(cluster: Cluster) -> None:
    async def test() -> None:
        first = cluster.worker()
        cluster.write("v", "0+4096")
        await first.assign([0, 1])
        await fold(cluster, first, "v")
        first.commit()
        await first.stop()
        second = cluster.worker()
        await second.assign([0, 1])
        assert second.store.rows[0] == first.store.rows[0]
        assert second.work.positions.expected_position(0) == 1
        await second.stop()

    asyncio.run(test())


def test_a_log_that_lost_records_begins_below_what_was_committed(cluster: Cluster) -> None:
    async def test() -> None:
        first = cluster.worker()
        await first.assign([0, 1])
        cluster.write("v", "0+4096")
        await fold(cluster, first, "v")
        end = cluster.broker.end_position(cluster.topics.changelog, 0)
        cluster.write("v", "4096+4096")
        await fold(cluster, first, "v")
        first.commit()
        await first.stop()
        cluster.broker.rewind(cluster.topics.changelog, 0, end)
        second = cluster.worker(first.store)
        await second.assign([0, 1])
        await fold(cluster, second, "v")
        assert cluster.changed("v") == {0, 1}
        await second.stop()

    asyncio.run(test())


def test_a_refused_log_record_aborts_and_nothing_is_committed(cluster: Cluster) -> None:
    async def test() -> None:
        engine = cluster.worker()
        await engine.assign([0, 1])
        cluster.broker.refused_topics.add(cluster.topics.changelog)
        cluster.write("v", "0+4096")
        engine.fetch()
        await until(lambda: bool(cluster.errors))
        engine.commit()

    with pytest.raises(SystemExit):
        asyncio.run(test())
    assert isinstance(cluster.errors[0], ChangelogRefused)
    assert cluster.committed() == [0, 0]


def test_none_of_this_imports_faust() -> None:
    script = (
        "import sys, mirrorlog.simulation.memory_engine, mirrorlog.streams.wiring; "
        "print(*{'faust', 'mode', 'aiokafka'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
