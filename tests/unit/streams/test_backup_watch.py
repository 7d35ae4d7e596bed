"""The reports of backups as a worker of the node knows them, for its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from notation import GENERATION, backup_report, site_progress, volume

from mirrorlog.codec.events import encode
from mirrorlog.domain.backup_reports import BackupReport
from mirrorlog.domain.partitioning import partition_of
from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.backup_reports import BackupReports
from mirrorlog.reading.present_state import Reported
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.streams.backup_watch import BackupWatch, backups_in
from mirrorlog.topics import Topics, TopicSpec

TOPICS = Topics(mirrored_sites=("far.",))
OTHER = "99999999-9999-4999-8999-999999999999"


class Cluster:
    """A broker to which backups report, and a worker that watches."""

    def __init__(self) -> None:
        self.clock = ManualClock(now_s=1000.0)
        self.broker = MemoryBroker(clock=self.clock)
        self.broker.create(TOPICS.specs(single_copy=True), 1)
        self.opened = 0
        self.watch = BackupWatch(self._open, self.clock)

    def _open(self) -> BackupReports:
        self.opened += 1
        return BackupReports(self.broker.reader(), self.broker, TOPICS, self.clock)

    def say(self, said: BackupReport, topic: str = TOPICS.progress) -> None:
        self.broker.append(topic, 0, said.key, encode(said))

    def known(self) -> dict[tuple[str, str], Reported[BackupReport]]:
        asyncio.run(self.watch.look())
        return {(one.report.volume, one.report.repository): one for one in self.watch.reports}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    asyncio.run(cluster.watch.stop())


def test_the_last_report_of_each_repository_is_known_with_the_brokers_time(
    cluster: Cluster,
) -> None:
    site = site_progress(applied_position=3)
    cluster.broker.append(TOPICS.progress, 0, b"s/v", encode(site))
    cluster.broker.append(TOPICS.progress, 0, b"s/", b"what no release can read")
    cluster.say(backup_report(position=1))
    cluster.say(backup_report(repository=OTHER))
    assert set(cluster.known()) == {("v", GENERATION), ("v", OTHER)}
    cluster.clock.now_s += 60
    cluster.say(backup_report(position=2))
    known = cluster.known()["v", GENERATION]
    assert (known.report.position, known.appended_at_us) == (2, cluster.clock.now_us())
    assert cluster.opened == 1


def test_a_registration_that_ended_is_forgotten(cluster: Cluster) -> None:
    cluster.say(backup_report())
    assert len(cluster.known()) == 1
    cluster.broker.append(TOPICS.progress, 0, backup_report().key, None)
    assert cluster.known() == {}


def test_a_report_that_cant_be_read_leaves_the_last_one(cluster: Cluster) -> None:
    cluster.say(backup_report())
    cluster.broker.append(TOPICS.progress, 0, backup_report().key, b"of a newer release")
    assert cluster.known()["v", GENERATION].report == backup_report()


def test_backups_at_a_mirrored_cluster_count_once_the_mirror_has_made_its_topic(
    cluster: Cluster,
) -> None:
    assert cluster.known() == {}
    _, far = TOPICS.all_progress
    cluster.broker.create([TopicSpec(far, {}, one_partition=True)], 1)
    cluster.say(backup_report(), far)
    assert set(cluster.known()) == {("v", GENERATION)}


def test_while_the_broker_is_away_the_last_reports_stay(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.say(backup_report())
    cluster.known()
    with monkeypatch.context() as away:
        away.setattr(cluster.broker, "end_position", _fail)
        assert len(cluster.known()) == 1
        assert len(cluster.known()) == 1
    assert "the metrics of backups are old" in caplog.text
    cluster.say(backup_report(repository=OTHER))
    assert len(cluster.known()) == 2
    assert caplog.text.count("the metrics of backups are old") == 1


def _fail(*_: object) -> int:
    raise KafkaFailed("no broker answers")


def test_a_worker_has_the_backups_of_the_volumes_in_its_partitions() -> None:
    volumes = {"v": volume("v", partition=1), "w": volume("w", partition=2)}
    gone = partition_of("gone", 4)
    reports = [Reported(backup_report(volume=name), 0) for name in ("v", "w", "gone")]

    def names(*partitions: int) -> list[str]:
        backups = backups_in(partitions, reports, volumes, partition_count=4, now_us=1)
        return [backup.report.volume for backup in backups]

    assert names(1) == sorted(["v", *(["gone"] if gone == 1 else [])])
    assert names(0, 1, 2, 3) == ["gone", "v", "w"]
    assert names() == []
