"""A site runs from Python until it is stopped, and says what it does meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from notation import volume

from mirrorlog.codec.events import encode
from mirrorlog.consumers import wiring
from mirrorlog.consumers.name_fence import FencePorts
from mirrorlog.consumers.resync.reporting import SiteSummary
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.wiring import (
    in_turn,
    open_site,
    run_rounds,
    run_site,
)
from mirrorlog.errors import BadUse
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

SETTINGS = Settings()


@pytest.fixture
def site() -> Site:
    broker, topics, clock = MemoryBroker(), SETTINGS.topics, ManualClock(look_s=0.3)
    broker.create(topics.specs(single_copy=True), 1)
    publisher = broker.publisher()
    publish_volume(publisher, topics, volume())
    publisher.flush(0)
    ports = SitePorts(
        log=LogReader(broker.reader(), broker, topics.changelog, site="a"),
        catalog=Catalog(broker.reader(), broker, topics, clock),
        admin=broker,
        publisher=publisher,
        states=MemorySecondaryStates(),
        secondaries=MemorySecondaries({}, {"v": MemoryDevice(volume().size_bytes)}),
        open_reader=broker.reader,
        clock=clock,
    )
    return Site("a", ports, SETTINGS)


def use_memory(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let open_site() use the ports of `site`."""
    ports = site._ports
    assert isinstance(ports.admin, MemoryBroker)
    fence = FencePorts(
        ports.admin.reader(), ports.admin, ports.publisher, ports.clock, SETTINGS.topics.progress, 9
    )
    monkeypatch.setattr(wiring, "site_ports", lambda *_: ports)
    monkeypatch.setattr(wiring, "fence_ports", lambda *_: fence)


def test_a_site_runs_until_it_is_stopped_and_tells_each_change_once(site: Site) -> None:
    rounds, summaries = iter(range(9)), list[SiteSummary]()
    run_rounds(site, lambda: next(rounds) == 8, summaries.append, ManualClock(look_s=0.3))
    assert site.secondaries["v"].saved is not None
    assert summaries == [SiteSummary("a", 1, 1, 0, 0, 0, 0, 0)]


def test_run_site_opens_the_site_and_closes_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_memory(site, monkeypatch)
    said = []
    for _ in range(2):  # the second run finds the folder unlocked
        run_site(
            "a",
            tmp_path / "site",
            SETTINGS,
            stopped=lambda: len(said) % 2 == 0,
            on_ready=lambda: said.append("ready"),
            on_summary=said.append,
        )
    summary = SiteSummary("a", 1, 1, 0, 0, 0, 0, 0)
    assert said == ["ready", summary] * 2


def test_a_site_shows_signs_of_life_while_it_copies_and_none_while_it_hangs(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_memory(site, monkeypatch)
    assert isinstance(site._ports.secondaries, MemorySecondaries)
    publish_volume(site._ports.publisher, SETTINGS.topics, volume("w", initially_zeroed=False))
    site._ports.publisher.flush(0)
    site._ports.secondaries.primaries["w"] = primary = MemoryDevice(volume().size_bytes)
    primary.pwrite(0, b"x" * volume().size_bytes)
    watermark = Watermark(partition=0, through=-1, at_us=1)
    assert isinstance(site._ports.admin, MemoryBroker)
    site._ports.admin.append(SETTINGS.topics.changelog, 0, watermark_key(0), encode(watermark))
    alive: list[int] = []
    at_reads: list[int] = []

    def hang(operation: str, *_: int) -> None:
        """Read for an hour. The thread of the site does nothing else meanwhile."""
        if operation == "pread":
            before = len(alive)
            for _ in range(12_000):
                site._ports.clock.monotonic_s()
            assert len(alive) == before
            at_reads.append(before)

    primary.hook = hang
    small = SETTINGS.model_copy(update={"site_copy_bytes": 1 << 18})
    with wiring.open_site("a", tmp_path, small, on_alive=lambda: alive.append(1)) as opened:
        for _ in range(9):
            opened.run_once(0)
    assert len(at_reads) >= 4
    assert len(set(at_reads)) > 1, "no sign of life between two batches"


def test_a_site_that_lost_its_name_is_not_alive() -> None:
    alive: list[int] = []

    def lose() -> None:
        raise BadUse("another process runs the site")

    with pytest.raises(BadUse):
        in_turn(lose, lambda: alive.append(1))()
    assert alive == []
    in_turn(lambda: None, lambda: alive.append(1))()
    assert alive == [1]


def test_two_sites_in_one_folder_are_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_memory(site, monkeypatch)
    with wiring.open_site("a", tmp_path, SETTINGS), pytest.raises(BadUse):
        run_site("b", tmp_path, SETTINGS, stopped=lambda: True)


def test_the_package_is_cheap_to_import() -> None:
    code = "import sys, mirrorlog.consumers; print(len([m for m in sys.modules if 'kafka' in m]))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert loaded.strip() == b"0"


def test_a_volume_in_a_partition_that_was_added_while_the_site_ran_is_mirrored(site: Site) -> None:
    broker, topics = site._ports.admin, SETTINGS.topics
    assert isinstance(broker, MemoryBroker)
    assert isinstance(site._ports.secondaries, MemorySecondaries)
    site._ports.secondaries.primaries["w"] = MemoryDevice(volume().size_bytes)
    site.run_once(0)
    for topic in (topics.commands, topics.changelog, topics.status):
        broker.add_partitions(topic, 2)
    publisher = broker.publisher()
    publish_volume(publisher, topics, volume("w", partition=1))
    publisher.flush(0)
    watermark = Watermark(partition=1, through=5, at_us=1)
    broker.append(topics.changelog, 1, watermark_key(1), encode(watermark))
    for _ in range(5):
        site.run_once(0)
    assert site._ports.log.watermarks == {1: watermark}
    assert site._ports.log.caught_up()
    assert "w" in site.secondaries


def test_a_site_on_a_mirror_cant_ask_a_host_for_digests(tmp_path: Path) -> None:
    settings = Settings(kafka_mirror_of="source", site_primary_reader="host")
    with pytest.raises(BadUse, match="can't ask a host"), open_site("a", tmp_path, settings):
        pass
