"""A host reports to a real broker, and works the same on a cluster without the topic."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from writing import make_volumes

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.demo.run import Run
from mirrorlog.domain.reports import HostState
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers import open_volume
from mirrorlog.reading.present_state import PresentState, PresentStateReader
from mirrorlog.settings import Settings

pytestmark = pytest.mark.integration


def write(settings: Settings, folder: Path) -> None:
    """Write one block of a new volume vol1, and close it."""
    make_volumes(settings, {"vol1": 1 << 20}, folder / "primaries")
    with open_volume("vol1", settings, host="h") as volume:
        volume.pwrite(b"x" * 4096, 0)


def present_state(settings: Settings) -> PresentState:
    client = settings.kafka_client()
    admin = KafkaAdmin(client)
    reader = PresentStateReader(
        lambda: KafkaReader(client), admin, settings.topics, SystemClock(), DEADLINE_S
    )
    state = reader.refresh()
    reader.close()
    admin.close()
    return state


def test_a_host_reports_what_it_did_when_it_closes(world: Run, tmp_path: Path) -> None:
    write(world.settings, tmp_path)
    state = present_state(world.settings)
    reported = state.hosts["h", "vol1"]
    assert reported.appended_at_us is not None
    report = reported.report
    assert (report.state, report.writes, report.bytes_written) == (HostState.CLOSED, 1, 4096)
    assert (state.reports_error, set(state.volumes)) == (None, {"vol1"})


def test_a_cluster_without_the_topic_harms_nobody(
    world: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topics = world.settings.topics
    admin = KafkaAdmin(world.settings.kafka_client())
    admin.delete([topics.reports])
    before = admin.end_position(topics.commands, 0)
    with caplog.at_level(logging.WARNING, "mirrorlog.reports"):
        write(world.settings, tmp_path)
    assert len([r for r in caplog.records if r.name == "mirrorlog.reports"]) == 1
    ends = [
        admin.end_position(topics.commands, n) for n in range(admin.partitions(topics.commands))
    ]
    assert sum(ends) > before
    assert topics.reports not in admin.names(topics.prefix)
    admin.close()
    state = present_state(world.settings)
    assert state.hosts == {}
    assert state.reports_error is not None
