"""The reports of sites, also of those whose clusters a mirror brings here."""

from __future__ import annotations

import pytest
from notation import site_progress

from mirrorlog.codec.events import encode
from mirrorlog.errors import KafkaFailed
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics, TopicSpec

TOPICS = Topics(mirrored_sites=("berlin.",))


class Broker(MemoryBroker):
    """is_away: it doesn't say which topics there are."""

    is_away = False

    def names(self, prefix: str) -> set[str]:
        if self.is_away:
            raise KafkaFailed("Kafka is away")
        return super().names(prefix)


def test_a_mirrored_topic_is_read_once_it_is_there_and_none_counts_as_missing_by_an_outage() -> (
    None
):
    broker = Broker()
    broker.create(TOPICS.specs(single_copy=True), 1)
    reports = SiteReports(broker.reader(), broker, TOPICS, ManualClock())
    broker.append(TOPICS.progress, 0, b"a/v", encode(site_progress(site="a")))
    reports.refresh()
    assert [report.site for report in reports.of("v")] == ["a"]
    mirrored = TOPICS.all_progress[1]
    broker.create([TopicSpec(mirrored, {}, one_partition=True)], 1)
    broker.append(mirrored, 0, b"b/v", encode(site_progress(site="b")))
    broker.is_away = True
    with pytest.raises(KafkaFailed):
        reports.refresh()
    broker.is_away = False
    reports.refresh()
    assert sorted(report.site for report in reports.of("v")) == ["a", "b"]
