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
    "site_progress.v7": (
        PROGRESS,
        "c301df04ac4f08a3ff69026102764831313131313131312d313131312d343131312d383131312d31313131"
        "313131313131313104020866756c6c0212000214020202804002000000000000e03f048080010e02067768"
        "790206616263020000000000029040020000000000001040020c020877616974020a020a657175616c0204"
        "6462020c706175736564024831313131313131312d313131312d343131312d383131312d31313131313131"
        "313131313102100208",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_a_report_never_change(name: str) -> None:
    report, golden = GOLDEN[name]
    assert encode(report).hex() == golden
    assert decode(bytes.fromhex(golden), type(report)) == report


BEFORE_GROUPS = replace(
    PROGRESS,
    group=None,
    group_reason=None,
    common_point_id=None,
    common_point_position=None,
    common_point_at_us=None,
)
GOLDEN_V6 = (
    "c301d7dd64ba255e2dd4026102764831313131313131312d313131312d343131312d383131312d31313131"
    "313131313131313104020866756c6c0212000214020202804002000000000000e03f048080010e02067768"
    "790206616263020000000000029040020000000000001040020c020877616974020a020a657175616c"
)


@pytest.mark.parametrize("fingerprint", ["d7dd64ba255e2dd4", "5358f58d0760d0a0"])
def test_a_report_of_an_older_version_is_read(fingerprint: str) -> None:
    """Versions 5 and 6 have the same fields: version 6 added a state."""
    before = GOLDEN_V6.replace("d7dd64ba255e2dd4", fingerprint)
    assert decode(bytes.fromhex(before), SiteProgress) == BEFORE_GROUPS


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


@given(st.none() | TEXT, st.none() | TEXT, st.none() | TEXT, UNKNOWN_NUMBER, UNKNOWN_NUMBER)
def test_the_group_of_a_sites_report_reads_back(
    group: str | None,
    group_reason: str | None,
    point_id: str | None,
    position: int | None,
    at_us: int | None,
) -> None:
    report = replace(
        PROGRESS,
        group=group,
        group_reason=group_reason,
        common_point_id=point_id,
        common_point_position=position,
        common_point_at_us=at_us,
    )
    assert decode(encode(report), SiteProgress) == report
