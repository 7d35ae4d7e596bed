"""`mirrorlog audit` on Kafka gives back a recording, write by write."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run_main

from mirrorlog.cli.demo.run import Run

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.traces]

VSCSI = np.dtype(
    [
        *(("serial", "<u4"), ("length", "<u4"), ("pieces", "<u4"), ("opcode", "<u2")),
        *(("version", "<u2"), ("block", "<u8"), ("at_us", "<u8")),
    ]
)
"""A record of vscsiStats, version 1. The writes are WRITE(10)."""
BEGAN, BEGAN_US = "2012-01-02T03:04:05Z", 1_325_473_445_000_000
Write = tuple[int, int, str, int]
"""The offset, length and kind of a write, and its time in microseconds since 1970."""


def writes_of(recording: Path) -> list[Write]:
    """Return the writes of a vscsi recording, read with numpy alone."""
    records = np.fromfile(recording, VSCSI)
    writes = records[records["opcode"] == 0x2A]
    at_us = BEGAN_US + writes["at_us"].astype(np.int64) - int(writes["at_us"][0])
    offsets, lengths = writes["block"] * 512, writes["length"]
    return [
        (offset, length, "write", time)
        for offset, length, time in zip(
            offsets.tolist(), lengths.tolist(), at_us.tolist(), strict=True
        )
    ]


def mirrorlog(*arguments: str) -> str:
    code, out, err = run_main(list(arguments))
    assert code == 0, err
    return out


def test_a_recording_comes_back_in_order_field_for_field(
    run: Run, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
    for name, value in run.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    recording = recordings / "cloudphysics" / "cloudPhysicsIO.vscsi"
    expected = writes_of(recording)
    assert len(expected) == 66_898
    mirrorlog("volume", "create", "vol", "--size", "33584938496B")
    mirrorlog("import", "vscsi", "vol", str(recording), "--began", BEGAN, "--host", "vm")
    paths = {name: tmp_path / f"rows.{name}" for name in ("parquet", "csv", "json")}
    for name, path in paths.items():
        mirrorlog("audit", "vol", "--kind", "write", "--format", name, "-o", str(path))
    table = parquet.read_table(paths["parquet"])
    with paths["csv"].open(newline="") as file:
        by_csv = list(csv.DictReader(file))
    by_json = [json.loads(line) for line in paths["json"].read_text("utf-8").splitlines()]
    names = ("offset", "length", "kind", "first_at_us")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == expected
    assert [
        (int(row["offset"]), int(row["length"]), row["kind"], int(row["first_at_us"]))
        for row in by_csv
    ] == expected
    assert by_json == table.to_pylist()
    assert table["first_at_us"] == table["last_at_us"]
    order = list(zip(table["position"].to_pylist(), table["extent"].to_pylist(), strict=True))
    assert order == sorted(set(order))
    for name, value in {"volume": "vol", "host": "vm", "clock": "recording", "note": None}.items():
        assert table[name].unique().to_pylist() == [value]
    assert table["forks"].null_count == len(expected)
    assert len(table["session"].unique()) == 1
