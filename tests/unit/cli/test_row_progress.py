"""Progress of a reading: a line each ten seconds, JSON each second, nothing with -q."""

from __future__ import annotations

import json

import pytest

from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.row_progress import RowProgress
from mirrorlog.simulation.manual_clock import ManualClock


def shown(
    output: Output, capsys: pytest.CaptureFixture[str], seconds: list[int]
) -> tuple[list[str], list[str]]:
    """Return the lines on stdout and stderr of a reading with an update at each of these seconds.

    At second N, N % are read, and N thousand rows.
    """
    clock = ManualClock()
    with RowProgress(output, 100, clock.monotonic_s, shows_rows=False) as progress:
        for second in seconds:
            clock.now_s = second
            progress.update(second, second * 1000)
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_a_line_comes_each_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(Output(), capsys, [1, 9, 10, 15, 25])
    assert (out, err) == (
        [],
        [
            "10.0% read, 10,000 rows, 1,000 rows/s, 1.5 min left",
            "25.0% read, 25,000 rows, 1,000 rows/s, 1.2 min left",
        ],
    )


def test_a_message_comes_each_second_under_json(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(Output(json=True), capsys, [1, 1, 2])
    assert err == []
    assert [json.loads(line) for line in out] == [
        {
            "message_type": "progress",
            "positions": second,
            "total_positions": 100,
            "rows": second * 1000,
            "rate_rows_s": 1000.0,
            "eta_s": 100.0 - second,
        }
        for second in (1, 2)
    ]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(Output(quiet=True), capsys, [10, 20]) == ([], [])
