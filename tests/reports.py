"""One report of each kind, with another value in each field."""

from __future__ import annotations

from typing import Final

from notation import GENERATION, site_progress

from mirrorlog.domain.reports import (
    ForkReport,
    HostReport,
    HostState,
    NodePartitionState,
    NodeReport,
    PartitionReport,
)
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import Rung, SiteState

HOST: Final = HostReport(
    host="h",
    volume="v",
    session="s",
    generation=GENERATION,
    state=HostState.OPEN,
    started_at_us=1,
    at_us=2,
    hot_regions=3,
    hot_regions_limit=1024,
    region_bytes=4 << 20,
    queued_bytes=4,
    spool_bytes=5,
    spool_limit_bytes=6,
    away_since_us=None,
    writes=7,
    bytes_written=8,
    acknowledged_position=9,
    forks=(ForkReport(site="a", state="IN"),),
    is_whole_volume_hot=True,
)
NODE: Final = NodeReport(
    node="n",
    started_at_us=1,
    at_us=2,
    http_url="http://n:1",
    version="0.1",
    partitions=(
        PartitionReport(
            partition=3,
            state=NodePartitionState.HOLDING_BACK,
            recorded_through=4,
            commands_end=7,
            behind_commands=2,
            lag_s=0.5,
            table_bytes=5,
            oldest_record_at_us=6,
            reason="why",
        ),
        PartitionReport(partition=4, state=NodePartitionState.RECOVERING),
    ),
    accepted=1,
    refused=2,
    quarantined=3,
    is_over=True,
)
PROGRESS: Final = site_progress(
    site="a",
    state=SiteState.SYNCING,
    rung=Rung.FULL,
    applied_position=9,
    watermark=10,
    behind_blocks=1,
    behind_bytes=4096,
    lag_s=0.5,
    blocks_copied=2,
    bytes_copied=8192,
    at_us=7,
    reason="why",
    secondary_id="abc",
    rate_bytes_s=1024.5,
    eta_s=4.0,
    last_applied_at_us=6,
    next_action="wait",
    last_verified_at_us=5,
    last_verify_result="equal",
    group="db",
    group_reason="paused",
    common_point_id=GENERATION,
    common_point_position=8,
    common_point_at_us=4,
)
LEASE: Final = SiteLease(
    site="a",
    run=GENERATION,
    folder=GENERATION,
    machine="m",
    term=3,
    host="h",
    pid=7,
    started_at_us=9,
)
