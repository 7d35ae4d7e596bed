"""`mirrorlog audit VOLUME`: its formats, its files and its exit codes, without Kafka."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import run_main
from logs import Log
from notation import command, volume

from mirrorlog.cli.commands import audit_volume
from mirrorlog.cli.support import audit_rows
from mirrorlog.consumers.audit import output_file
from mirrorlog.consumers.audit.ask import AuditAnswer, answer_question
from mirrorlog.consumers.audit.question import AuditQuestion
from mirrorlog.domain.commands import ForkOutcomes
from mirrorlog.history.definition import COLUMNS

NAMES = [column.name for column in COLUMNS]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Return a log that the command asks instead of Kafka."""
    made = Log([volume()])
    sent = [
        command("0+4096 z4096+4096", forks=(ForkOutcomes("a"),), note='x,"y"'),
        command("8192+1", sequence=1, host="i"),
    ]
    made.publish(sent, [1.5, 2])

    @contextmanager
    def open_audit(_: object, question: AuditQuestion, patience_s: float) -> Iterator[AuditAnswer]:
        yield answer_question(question, made.ports(), patience_s)

    monkeypatch.setattr(audit_volume, "open_audit", open_audit)
    return made


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_table_has_a_line_a_row_and_the_sum_goes_to_stderr(log: Log) -> None:
    code, out, err = run_main(["audit", "v"])
    assert code == 0
    titles, *table = out.splitlines()
    assert [line.split()[:7] for line in table] == [
        ["1970-01-01T00:00:01.500Z", "0", "h", "s", "write", "0", "4096"],
        ["1970-01-01T00:00:01.500Z", "0", "h", "s", "zero", "4096", "4096"],
        ["1970-01-01T00:00:02.000Z", "1", "i", "s", "write", "8192", "1"],
    ]
    assert "a=has" in table[0]
    assert titles.index("KIND") == table[0].index("write")
    assert "3 rows at positions 0 to 1" in err


def test_json_rows_are_bare_or_messages(log: Log) -> None:
    code, out, _ = run_main(["audit", "v", "--format", "json"])
    bare = lines(out)
    assert (code, [list(row) for row in bare]) == (0, [NAMES] * 3)
    assert bare[0]["note"] == 'x,"y"'
    assert bare[0]["forks"] == [{"site": "a", "outcome": "has"}]
    assert [row["status"] for row in bare] == [None] * 3
    code, out, _ = run_main(["--json", "audit", "v"])
    *messages, summary = lines(out)
    assert messages == [{"message_type": "row", **row} for row in bare]
    assert (summary["message_type"], summary["rows"], summary["changes"]) == ("summary", 3, 3)
    assert summary["until"] == {"asked": "now", "at": None, "position": 1}
    assert summary["missing"] == []


def test_csv_has_every_column(log: Log) -> None:
    _, out, _ = run_main(["audit", "v", "--format", "csv"])
    titles, *table = csv.reader(StringIO(out))
    assert titles == NAMES
    first = dict(zip(NAMES, table[0], strict=True))
    assert (first["note"], first["forks"], first["status"]) == ('x,"y"', "a=has", "")
    assert len(table) == 3


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_files_hold_the_rows(log: Log, tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow isn't installed (extra archive)")
    from pyarrow import ipc, parquet

    path = tmp_path / f"rows.{name}"
    code, out, _ = run_main(["--json", "audit", "v", "--format", name, "-o", str(path)])
    assert code == 0
    assert [message["message_type"] for message in lines(out)] == ["summary"]
    table = parquet.read_table(path) if name == "parquet" else ipc.open_file(path).read_all()
    _, out, _ = run_main(["audit", "v", "--format", "json"])
    assert table.to_pylist() == lines(out)
    assert list(tmp_path.iterdir()) == [path]


def test_pyarrow_is_asked_for_when_it_is_missing(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run_main(["audit", "v", "--format", "parquet", "-o", str(tmp_path / "f")])
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "mirrorlog[archive]" in err


def test_a_file_stays_as_it_was_if_the_rows_end_early(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("before")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_file.os, "fsync", broken)
    code, _, err = run_main(["audit", "v", "--format", "csv", "-o", str(path)])
    assert (code, path.read_text(), list(tmp_path.iterdir())) == (1, "before", [path])
    assert "No space left" in err


def test_a_closed_pipe_ends_it_without_a_sum(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(audit_rows, "_write_text", broken)
    monkeypatch.setattr(audit_rows, "discard_the_rest", lambda _: None)
    code, out, err = run_main(["audit", "v"])
    assert (code, out, err) == (0, "", "")


def test_a_signal_leaves_no_file(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_volume, "stop_flag", lambda: lambda: True)
    code, _, _ = run_main(["audit", "v", "--format", "csv", "-o", str(tmp_path / "f")])
    assert (code, list(tmp_path.iterdir())) == (130, [])


def test_what_retention_took_ends_with_exit_code_3_or_is_told(log: Log) -> None:
    log.broker.trim(log.topics.commands, 0, 1)
    code, out, err = run_main(["audit", "v"])
    assert (code, out) == (3, "")
    assert "--partial" in err
    code, out, err = run_main(["audit", "v", "--partial", "--wait", "0s"])
    assert (code, len(out.splitlines())) == (0, 2)
    assert "retention took positions 0 to 0" in err
    assert "the log doesn't say" in err  # no node has folded the commands
    code, out, _ = run_main(["--json", "audit", "v", "--partial", "--wait", "0s"])
    tally = lines(out)[-1]
    until = "1970-01-01T00:00:02.000000Z"
    assert tally["missing"] == [{"after": -1, "through": 0, "appended_until": until}]
    assert (tally["missing_positions"], tally["missing_writes_at_most"]) == (1, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "parquet"],
        ["--format", "xml"],
        ["--kind", "read"],
        ["-o", "/nowhere/f"],
        ["--since", "gestern"],
    ],
)
def test_bad_use_has_exit_code_2(log: Log, arguments: list[str]) -> None:
    assert run_main(["audit", "v", *arguments])[0] == 2


def test_json_on_stdout_takes_nothing_else(log: Log) -> None:
    assert run_main(["--json", "audit", "v", "--format", "csv"])[0] == 2


def test_the_summary_says_what_the_rows_amount_to(log: Log) -> None:
    code, out, err = run_main(["audit", "v", "--summary"])
    assert code == 0
    assert "rewrite factor" in out
    assert "3 of 8.0 KiB" in out
    assert "3 rows" in err
    assert "status" not in err
    code, out, _ = run_main(["--json", "audit", "v", "--summary", "--host", "i"])
    figures, tally = lines(out)
    assert (figures["message_type"], figures["writes"], figures["written_bytes"]) == (
        "figures",
        1,
        1,
    )
    assert (figures["distinct_bytes"], figures["dirty_bytes"]) == (512, 4096)
    assert figures["hosts"] == [{"host": "i", "writes": 1, "written_bytes": 1}]
    assert figures["hours"] == [
        {"at": "1970-01-01T00:00:00.000000Z", "writes": 1, "written_bytes": 1, "dirty_bytes": 4096}
    ]
    assert tally["rows_without_status"] is None
    assert run_main(["audit", "v", "--summary", "--host", "x"])[1] == "no writes\n"


def test_heat_is_text_an_object_or_a_picture(log: Log, tmp_path: Path) -> None:
    code, out, _ = run_main(["audit", "v", "--heat"])
    assert code == 0
    first, *_, legend = out.splitlines()
    assert first.split()[-1] == "█·"
    assert "1 to 2 writes" in legend
    code, out, _ = run_main(["--json", "audit", "v", "--heat"])
    heat = lines(out)[0]
    assert (heat["message_type"], heat["span_s"]) == ("heat", 1)
    assert heat["writes"] == [[2, 1], *[[0, 0]] * 31]
    path = tmp_path / "heat.svg"
    assert run_main(["audit", "v", "--heat", "-o", str(path)])[0] == 0
    texts = [element.text or "" for element in ElementTree.parse(path).iter()]
    assert "Writes to volume v" in texts
    assert [text for text in texts if text.startswith("writes:")] == ["writes: 2", "writes: 1"]
    assert run_main(["audit", "v", "--heat", "--host", "x"])[1] == "no writes\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--summary", "--heat"],
        ["--summary", "--format", "csv"],
        ["--summary", "-o", "f"],
        ["--heat", "-o", "f.png"],
    ],
)
def test_an_answer_has_one_shape(log: Log, arguments: list[str]) -> None:
    assert run_main(["audit", "v", *arguments])[0] == 2
