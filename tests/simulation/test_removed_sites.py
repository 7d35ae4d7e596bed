"""A site that was removed and comes back finds out what the log let go, and claims none of it."""

from __future__ import annotations

from typing import Final

import pytest

from mirrorlog.consumers.name_fence import FencePorts
from mirrorlog.consumers.site_removal import LastReports, remove_from
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import BadUse
from mirrorlog.reading.read_through import CompactedTopic, ReadPatience
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.world.site import SITE
from mirrorlog.simulation.world.world import World
from mirrorlog.tracking_log.coverage import VolumeLog

KEPT_SHORTLY: Final = {"second": 0, "minute": 0, "hour": 0, "day": 2}


class SiteAway:
    """A world whose site was killed when it was consistent, while hosts write and the log ages."""

    def __init__(self, seed: int) -> None:
        self.world = world = World(seed, node_keep_s=KEPT_SHORTLY)
        world.check_log = lambda: None  # type: ignore[method-assign]  # it knows of no retention
        world.hold_primaries_still()
        for _ in range(20):
            world.host.write()
        self._publish()
        world.fold_and_commit()
        for _ in range(10):
            self._publish()
            world.run_round()
        assert world.site.is_consistent()

    def _publish(self) -> None:
        self.world.host.publish_all()
        self.world.host.heartbeat()
        self.world.fold_and_commit()

    def go_on(self) -> None:
        """Let hosts write and the log be rolled up and forgotten, without the site."""
        for _ in range(30):
            for _ in range(3):
                self.world.host.write()
            self._publish()
            for _ in range(40):
                self.world.node.maintain()
        self.world.compact()

    def remove(self) -> LastReports:
        """Remove the site, as `mirrorlog site remove` does."""
        broker, topic = self.world.broker, self.world.settings.topics.progress
        clock = ManualClock(look_s=0.1)
        ports = FencePorts(broker.reader(), broker, broker.publisher(), clock, topic, 1000)
        patience = ReadPatience(clock, 1000, "reading")
        return remove_from(SITE, ports, CompactedTopic(broker.reader(), broker, topic, patience))

    def come_back(self) -> set[Rung]:
        """Start the site, and let it catch up; return the rungs that it took.

        Check after each round that it claims only what is true.
        """
        self.world.site.start()
        rungs: set[Rung] = set()
        for _ in range(40):
            self._publish()
            self.world.run_round()
            self.world.site.check_consistency()
            self.world.site.check_claims()
            reports = map(self.world.site.site.progress, self.world.site.site.secondaries.values())
            rungs |= {report.rung for report in reports if report.rung is not None}
        assert self.world.site.is_consistent()
        for name in self.world.volumes:
            assert self.world.site.secondary_equals_primary(name), name
        return rungs


@pytest.mark.parametrize("seed", range(2))
def test_a_removed_site_that_comes_back_copies_what_the_log_let_go(seed: int) -> None:
    away = SiteAway(seed)
    assert set(away.remove()) == set(away.world.volumes)
    away.go_on()
    assert away.come_back() - {Rung.CHANGED}


def test_the_log_is_kept_for_a_site_that_is_away_and_was_not_removed() -> None:
    away = SiteAway(1)
    away.go_on()
    assert away.come_back() == {Rung.CHANGED}


def test_a_removed_site_that_comes_back_at_once_goes_on_where_it_was() -> None:
    away = SiteAway(1)
    away.remove()
    assert away.come_back() == {Rung.CHANGED}


def test_a_site_that_was_only_paused_finds_that_it_was_removed() -> None:
    away = SiteAway(1)
    away.remove()
    before = away.world.broker.messages(away.world.settings.topics.progress)
    away.world.site.clock.now_s += 60
    with pytest.raises(BadUse):
        away.world.run_round()
    assert away.world.broker.messages(away.world.settings.topics.progress) == before


def test_a_site_that_passes_over_a_hole_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VolumeLog, "hole", lambda *_, **__: None)
    away = SiteAway(1)
    away.remove()
    away.go_on()
    with pytest.raises(AssertionError):
        away.come_back()
