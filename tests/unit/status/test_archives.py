"""How far archives are: nothing is OK that isn't proved, and an archiver that is gone is told."""

from __future__ import annotations

import pytest

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.archive_reports import ArchivedPartition, ArchiveReport
from mirrorlog.reading.present_state import Reported
from mirrorlog.status.archives import ArchiveStatus, evaluate_archives
from mirrorlog.status.health import Health

NOW_US = 10_000_000_000


def _report(**fields: object) -> ArchiveReport:
    known: dict[str, object] = {
        "archive": "s3://bucket/history",
        "host": "machine",
        "at_us": 5,
        "every_s": 3600.0,
        "keep_s": 86_400.0,
        "partitions": (
            ArchivedPartition(partition=0, archived_through=7, recorded_through=9, first_kept=2),
        ),
    }
    return ArchiveReport(**known | fields)  # type: ignore[arg-type]


def _status(report: ArchiveReport, age_s: float | None) -> ArchiveStatus:
    at_us = None if age_s is None else NOW_US - int(age_s * 1e6)
    (row,) = evaluate_archives([Reported(report, at_us)], NOW_US)
    return row


@pytest.mark.parametrize(
    ("report", "age_s", "health"),
    [
        (_report(), 10.0, Health.OK),
        (_report(), 7259.0, Health.OK),
        (_report(), 7261.0, Health.WARNING),
        (_report(every_s=None), 1e6, Health.OK),
        (_report(is_over=True), 1e6, Health.OK),
        (_report(), None, Health.UNKNOWN),
        (_report(partitions=(ArchivedPartition(partition=3, reason="full"),)), 1.0, Health.WARNING),
    ],
)
def test_an_archive_is_as_well_as_its_archivers(
    report: ArchiveReport, age_s: float | None, health: Health
) -> None:
    row = _status(report, age_s)
    assert row.health is health
    assert (row.reason is None) == (health is Health.OK)


def test_how_far_it_is_behind_is_unknown_if_one_partition_is() -> None:
    assert _status(_report(), 1.0).behind_positions == 2
    unknown = _report(partitions=(*_report().partitions, ArchivedPartition(partition=1)))
    assert _status(unknown, 1.0).behind_positions is None


def test_a_report_comes_back_from_its_bytes() -> None:
    for report in (_report(), _report(every_s=None, keep_s=None, is_over=True, partitions=())):
        assert decode(encode(report), ArchiveReport) == report


def test_bytes_of_this_release_stay_readable() -> None:
    """Golden bytes of archive_report.v1."""
    golden = bytes.fromhex(GOLDEN)
    assert decode(golden, ArchiveReport) == _report()


GOLDEN = (
    "c30176e1f4d6bbd568062673333a2f2f6275636b65742f686973746f72790e6d616368696e650a02"
    "000000000020ac4002000000000018f5400200020e02120204000000"
)
