"""`mirrorlog audit VOLUME`: its formats, its files and its exit codes, without Kafka."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from command_line import run_main
from logs import Log
from notation import command, volume

from mirrorlog.cli.commands import audit_volume
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


def test_a_signal_leaves_no_file(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_volume, "stop_flag", lambda: lambda: True)
    code, _, _ = run_main(["audit", "v", "--format", "csv", "-o", str(tmp_path / "f")])
    assert (code, list(tmp_path.iterdir())) == (130, [])


def test_what_retention_took_ends_with_exit_code_3_or_is_told(log: Log) -> None:
    log.broker.trim(log.topics.commands, 0, 1)
    code, out, err = run_main(["audit", "v"])
    assert (code, out) == (3, "")
    assert "--partial" in err
    code, out, err = run_main(["audit", "v", "--partial"])
    assert (code, len(out.splitlines())) == (0, 2)
    assert "retention took positions 0 to 0" in err
    code, out, _ = run_main(["--json", "audit", "v", "--partial"])
    assert lines(out)[-1]["missing"] == [{"after": -1, "through": 0}]
    assert lines(out)[-1]["missing_positions"] == 1


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
