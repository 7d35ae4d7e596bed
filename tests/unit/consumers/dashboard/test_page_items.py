"""What the page shows is a pure function of the reports, and nothing in it grows old by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from notation import site_progress, volume
from reports import HOST, LEASE

from mirrorlog.consumers.dashboard.page_items import Fields, ItemKey, page_items
from mirrorlog.domain.reports import HostState
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.status.health import Thresholds
from mirrorlog.status.overview import QuarantineNews, evaluate

NOW_US = 1_800_000_000_000_000
WELL: dict[str, Any] = {"state": SiteState.CONSISTENT, "applied_position": 5, "watermark": 5}


def state_of(*, heard_us: int = NOW_US, **report: object) -> PresentState:
    """Return the state of one volume at one site, whose lease and report were heard then."""
    progress = site_progress(**(WELL | report))
    return PresentState(
        volumes={"v": volume()},
        secondaries={("s", "v"): Reported(progress, heard_us)},
        leases={"s": Reported(replace(LEASE, site="s", caught_up_age_s=0.1), heard_us)},
    )


def items_of(state: PresentState, now_us: int = NOW_US) -> dict[ItemKey, Fields]:
    overview = evaluate(
        state,
        QuarantineNews(count=0),
        partition_count=1,
        now_us=now_us,
        thresholds=Thresholds(),
    )
    return page_items(state, overview)


def cell_of(state: PresentState, now_us: int = NOW_US) -> Fields:
    cell: Fields = items_of(state, now_us)[ItemKey("volume", "v")]["sites"]["s"]
    return cell


def test_a_secondary_that_is_well_lacks_nothing() -> None:
    cell = cell_of(state_of())
    assert (cell["health"], cell["state"], cell["lag_s"]) == ("OK", "CONSISTENT", 0)
    assert cell["behind_bytes"] == 0
    assert "reason" not in cell


@pytest.mark.parametrize("lag_s", [0.0, 0.4, 7.25])
def test_time_that_passes_changes_no_secondary(lag_s: float) -> None:
    state = state_of(lag_s=lag_s, behind_blocks=1, behind_bytes=4096)
    assert cell_of(state, NOW_US + 1_234_567) == cell_of(state, NOW_US + 2_468_024)


def test_what_lags_says_since_when() -> None:
    cell = cell_of(state_of(lag_s=7.0), NOW_US + 3_000_000)
    assert cell["lag_since_us"] == NOW_US - 7_000_000
    assert "lag_s" not in cell


def test_of_a_site_that_does_not_run_nothing_of_now_is_claimed() -> None:
    now_us = NOW_US + 60_000_000
    items = items_of(state_of(), now_us)
    cell = items[ItemKey("volume", "v")]["sites"]["s"]
    assert "state" not in cell
    assert "behind_bytes" not in cell
    assert "lag_s" not in cell
    assert (cell["reported_state"], cell["reported_at_us"]) == ("CONSISTENT", NOW_US)
    assert items[ItemKey("site", "s")]["life"] == "SILENT"
    assert "nothing was heard" in items[ItemKey("site", "s")]["reason"]


def test_an_unknown_number_is_left_out_and_never_zero() -> None:
    cell = cell_of(
        state_of(state=SiteState.STOPPED, lag_s=None, behind_bytes=None, behind_blocks=None)
    )
    assert cell["health"] == "CRITICAL"
    assert not {"lag_s", "lag_since_us", "behind_bytes", "in_sync_fraction"} & set(cell)


def test_a_volume_says_who_has_it_open() -> None:
    state = state_of()
    for name, host_state in (("h1", HostState.OPEN), ("h2", HostState.CLOSED)):
        report = replace(HOST, host=name, state=host_state, is_whole_volume_hot=False)
        state.hosts[name, "v"] = Reported(replace(report, spool_bytes=0), NOW_US)
    hosts = items_of(state)[ItemKey("volume", "v")]["hosts"]
    assert hosts == [{"host": "h1", "health": "OK", "state": "OPEN"}]


def test_a_host_that_is_silent_says_since_when_and_not_for_how_long() -> None:
    state = state_of()
    state.hosts["h", "v"] = Reported(HOST, NOW_US)
    key = ItemKey("host", "h/v")
    later = [items_of(state, NOW_US + seconds * 1_000_000)[key] for seconds in (60, 90)]
    assert later[0] == later[1]
    assert later[0]["heard_at_us"] == NOW_US
    assert "state" not in later[0]


def test_a_volume_without_a_site_has_no_cell_and_counts_as_unmirrored() -> None:
    items = items_of(PresentState(volumes={"v": volume()}))
    assert items[ItemKey("volume", "v")]["sites"] == {}
    assert items[ItemKey("summary", "")]["unmirrored"] == 1


def test_every_item_is_json() -> None:
    json.dumps([[*key, fields] for key, fields in items_of(state_of()).items()], allow_nan=False)
