"""Reports of hosts, of workers of the node and of sites keep their bytes, and read back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOST, NODE, PROGRESS

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.reports import (
    ForkReport,
    HostReport,
    HostState,
    NodePartitionState,
    NodeReport,
    PartitionReport,
)
from mirrorlog.domain.site_progress import SiteProgress

TEXT = st.text(max_size=20)
NUMBER = st.integers(0, 2**63 - 1)
UNKNOWN_NUMBER = st.none() | NUMBER
SECONDS = st.none() | st.floats(0, 1e9)

GOLDEN = {
    "host_report.v1": (
        HOST,
        "c3010e2bfaa1f50899820268027602734831313131313131312d313131312d343131312d383131312d313131"
        "31313131313131313102020406801080808004080a0c000e10021202026104494e0001",
    ),
    "node_report.v1": (
        NODE,
        "c301fc1922fa6869c75b026e02040214687474703a2f2f6e3a3106302e310406060208020e02040200000000"
        "0000e03f020a020c02067768790802000000000000000002040601",
    ),
    "site_progress.v6": (
        PROGRESS,
        "c301d7dd64ba255e2dd4026102764831313131313131312d313131312d343131312d383131312d3131313131"
        "3131313131313104020866756c6c0212000214020202804002000000000000e03f048080010e020677687902"
        "06616263020000000000029040020000000000001040020c020877616974020a020a657175616c",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_a_report_never_change(name: str) -> None:
    report, golden = GOLDEN[name]
    assert encode(report).hex() == golden
    assert decode(bytes.fromhex(golden), type(report)) == report


def test_a_report_of_the_version_before_is_read() -> None:
    golden = GOLDEN["site_progress.v6"][1]
    before = golden.replace("c301d7dd64ba255e2dd4", "c3015358f58d0760d0a0")
    assert decode(bytes.fromhex(before), SiteProgress) == PROGRESS


@given(
    st.builds(
        HostReport,
        host=TEXT,
        volume=TEXT,
        session=TEXT,
        generation=TEXT,
        state=st.sampled_from(HostState),
        started_at_us=NUMBER,
        at_us=NUMBER,
        hot_regions=NUMBER,
        hot_regions_limit=NUMBER,
        region_bytes=NUMBER,
        queued_bytes=NUMBER,
        spool_bytes=NUMBER,
        spool_limit_bytes=NUMBER,
        away_since_us=UNKNOWN_NUMBER,
        writes=NUMBER,
        bytes_written=NUMBER,
        acknowledged_position=UNKNOWN_NUMBER,
        forks=st.lists(st.builds(ForkReport, site=TEXT, state=TEXT), max_size=3).map(tuple),
        is_whole_volume_hot=st.booleans(),
    )
)
def test_reports_of_hosts_read_back(report: HostReport) -> None:
    assert decode(encode(report), HostReport) == report


PARTITIONS = st.builds(
    PartitionReport,
    partition=st.integers(0, 9999),
    state=st.sampled_from(NodePartitionState),
    recorded_through=st.none() | st.integers(-1, 2**63 - 1),
    commands_end=UNKNOWN_NUMBER,
    behind_commands=UNKNOWN_NUMBER,
    lag_s=SECONDS,
    table_bytes=UNKNOWN_NUMBER,
    oldest_record_at_us=UNKNOWN_NUMBER,
    reason=st.none() | TEXT,
)


@given(
    st.builds(
        NodeReport,
        node=TEXT,
        started_at_us=NUMBER,
        at_us=NUMBER,
        http_url=st.none() | TEXT,
        version=TEXT,
        partitions=st.lists(PARTITIONS, max_size=3).map(tuple),
        accepted=NUMBER,
        refused=NUMBER,
        quarantined=NUMBER,
        is_over=st.booleans(),
    )
)
def test_reports_of_workers_read_back(report: NodeReport) -> None:
    assert decode(encode(report), NodeReport) == report


@given(SECONDS, SECONDS, UNKNOWN_NUMBER, st.none() | TEXT, UNKNOWN_NUMBER, st.none() | TEXT)
def test_the_new_fields_of_a_sites_report_read_back(
    rate_bytes_s: float | None,
    eta_s: float | None,
    last_applied_at_us: int | None,
    next_action: str | None,
    last_verified_at_us: int | None,
    last_verify_result: str | None,
) -> None:
    report = replace(
        PROGRESS,
        rate_bytes_s=rate_bytes_s,
        eta_s=eta_s,
        last_applied_at_us=last_applied_at_us,
        next_action=next_action,
        last_verified_at_us=last_verified_at_us,
        last_verify_result=last_verify_result,
    )
    assert decode(encode(report), SiteProgress) == report
