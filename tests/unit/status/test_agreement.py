"""`mirrorlog status` and the metrics of a site say the same of a secondary that lives.

They can't share one function: a site knows its own log at once, and status knows only what the
topics hold. Both start from the same report here, at the moment at which it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from notation import site_progress, volume
from reports import LEASE
from scraping import scrape

from mirrorlog.consumers.resync.known_group import GroupFigures
from mirrorlog.consumers.resync.reporting import ReportedReplica
from mirrorlog.consumers.site_metrics import site_samples
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.reading.present_state import Reported
from mirrorlog.status.health import Thresholds
from mirrorlog.status.replicas import ReplicaStatus, evaluate_replicas
from mirrorlog.status.sites import evaluate_sites

NOW_US = 10**12


@dataclass
class Site:
    """A site that looked at its log just now."""

    report: SiteProgress
    name: str = "s"
    worked_at_us: int = NOW_US

    def now_us(self) -> int:
        return NOW_US

    def log_complete_us(self, partition: int) -> int | None:
        return NOW_US

    def group_figures(self) -> list[GroupFigures]:
        return []

    def reported(self) -> list[ReportedReplica]:
        size_bytes = volume().size_bytes
        return [
            ReportedReplica(
                self.report, at_s=0.0, size_bytes=size_bytes, partition=0, consistent_at_us=None
            )
        ]


def status_row(report: SiteProgress) -> ReplicaStatus:
    lease = replace(LEASE, site="s", caught_up_age_s=0.0)
    reports, leases = [Reported(report, NOW_US)], [Reported(lease, NOW_US)]
    sites = evaluate_sites(leases, reports, NOW_US, Thresholds())
    (row,) = evaluate_replicas({"v": volume()}, reports, sites, NOW_US, Thresholds())
    return row


# state       | lag s | behind bytes
CASES = """
CONSISTENT    | 0     | 0
SYNCING       | 3     | 4096
SYNCING       | 700   | 1048576
SETTLING      | 0     | 0
SYNCING       |       |
STOPPED       |       |
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_both_say_the_same(case: str) -> None:
    state, lag, behind = (part.strip() for part in case.split("|"))
    report = site_progress(
        state=SiteState(state),
        applied_position=4,
        generation=volume().generation,
        lag_s=float(lag) if lag else None,
        behind_bytes=int(behind) if behind else None,
        behind_blocks=int(behind) // 4096 if behind else None,
    )
    row = status_row(report)
    page = scrape(ExportingRole.SITE, lambda: site_samples(Site(report), 10))
    labels = ("s", "v")
    states = page["mirrorlog_replica_state"]
    assert [name[-1] for name, value in states.items() if value] == [row.reported_state]
    assert page.get("mirrorlog_replica_lag_seconds", {}).get(labels) == row.lag.lag_s
    assert page.get("mirrorlog_replica_behind_bytes", {}).get(labels) == row.behind_bytes
    assert page["mirrorlog_replica_lag_unknown"][labels] == (row.lag.lag_s is None)
