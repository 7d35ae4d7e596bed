"""Who changed a file, and when: `mirrorlog audit --files`, without Kafka, on a real file system."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from command_line import run_main
from file_images import MIB, inodes_by_debugfs, make_ext, map_of, need
from logs import Log
from notation import command, volume

from mirrorlog.cli.commands import audit_volume
from mirrorlog.cli.support import audit_files
from mirrorlog.consumers.audit.ask import AuditAnswer, answer_question
from mirrorlog.consumers.audit.question import AuditQuestion
from mirrorlog.consumers.file_names.owners import OwnerKind
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.volumes import Volume

SIZE = 16 * MIB
PAGE = Path(__file__).parents[3] / "docs" / "files.md"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mke2fs", "debugfs")
    folder = tmp_path_factory.mktemp("files")
    tree = folder / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/shadow").write_bytes(b"s" * 9000)
    (tree / "etc/passwd").write_bytes(b"p" * 100)
    (tree / "note, with\nlines").write_bytes(b"n" * 5000)
    return make_ext(folder / "image", tree, "-t", "ext4", "-b", "4096", size_bytes=SIZE)


@pytest.fixture
def starts(image: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let the command ask a log of five writes; return where each file begins."""
    index = map_of(image)
    places = {
        path: int(index.extents_of(path.encode())[0][0])
        for path in ("/etc/shadow", "/etc/passwd", "/note, with\nlines", "/etc")
    }
    inodes = inodes_by_debugfs(image, [start // 4096 for start in places.values()])
    assert None not in inodes.values()
    journal = next(
        int(edge)
        for edge, number in zip(index.edges, index.owner_numbers.tolist(), strict=False)
        if index.owners(number)[0].kind is OwnerKind.JOURNAL
    )
    shadow, passwd, note = (places[path] for path in list(places)[:3])
    described: Volume = volume("vol1", SIZE, primary=image.as_uri())
    log = Log([described])
    log.publish(
        [
            command(f"{journal}+4096 {passwd}+4096", "vol1", host="web1"),
            command(f"{shadow + 4096}+8192", "vol1", host="web1", sequence=1),
            command(f"{note}+512", "vol1", host="web2", sequence=2),
            command("", "vol1", kind=CommandKind.BARRIER, note="b", sequence=3),
            command(f"z{shadow - 4096}+8192", "vol1", host="web2", sequence=4),
        ],
        [1, 2, 3, 4, 5],
    )

    @contextmanager
    def open_audit(_: object, question: AuditQuestion, patience_s: float) -> Iterator[AuditAnswer]:
        yield answer_question(question, log.ports(), patience_s)

    monkeypatch.setattr(audit_volume, "open_audit", open_audit)
    monkeypatch.setattr(audit_files, "find_volume", lambda *_: described)
    return places


def asked(*arguments: str) -> list[dict[str, object]]:
    code, out, err = run_main(["audit", "vol1", *arguments, "--format", "json"])
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def names(row: dict[str, object]) -> list[tuple[object, object, object]] | None:
    shares = row["files"]
    if shares is None:
        return None
    assert isinstance(shares, list)
    return [(share["file"], share["label"], share["bytes"]) for share in shares]


def test_each_row_has_the_files_of_its_bytes(starts: dict[str, int]) -> None:
    rows = asked("--files")
    before = starts["/etc/shadow"] - 4096  # what lies before it in the image
    assert [names(row) for row in rows[:5]] == [
        [(None, "journal", 4096)],
        [("/etc/passwd", "file", 4096)],
        [("/etc/shadow", "file", 8192)],
        [("/note, with\nlines", "file", 512)],
        None,
    ]
    assert before == starts["/etc/passwd"]
    assert names(rows[5]) == [("/etc/passwd", "file", 4096), ("/etc/shadow", "file", 4096)]


def test_a_path_asks_for_the_writes_to_the_file(starts: dict[str, int], image: Path) -> None:
    rows = asked("--path", "/etc/shadow")
    assert [(row["host"], row["kind"], row["position"]) for row in rows] == [
        ("web1", "write", 1),
        ("web2", "zero", 4),
    ]
    assert [row["host"] for row in asked("--path", "/note, with\nlines")] == ["web2"]
    assert asked("--path", "/etc") == []
    code, _, err = run_main(["audit", "vol1", "--path", "/etc/shadow"])
    assert code == 0
    assert f"names are those on {image.as_uri()} at 2" in err
    assert "blocks of /etc/shadow at 2" in err
    assert "12.0 KiB in 1 ranges" in err
    assert "Blocks that belonged to it before, and don't now, aren't seen" in err
    code, _, err = run_main(["audit", "vol1", "--path", "/etc/gone"])
    assert code == 2
    assert "there is no file /etc/gone in the volume" in err


def test_the_table_and_csv_have_a_column_of_files(starts: dict[str, int]) -> None:
    _, out, _ = run_main(["audit", "vol1", "--files"])
    header, *table = out.splitlines()
    assert header.endswith("FILES")
    assert table[0].index("[journal]") == header.index("FILES")
    assert [line.rsplit("  ", 1)[1] for line in table if " barrier " not in line] == [
        "[journal]",
        "/etc/passwd",
        "/etc/shadow",
        "/note, with\\nlines",
        "/etc/passwd, /etc/shadow",
    ]
    _, out, _ = run_main(["audit", "vol1", "--files", "--format", "csv"])
    rows = list(csv.DictReader(StringIO(out)))
    assert [row["files"] and json.loads(row["files"])[0]["file"] for row in rows] == [
        None,
        "/etc/passwd",
        "/etc/shadow",
        "/note, with\nlines",
        "",
        "/etc/passwd",
    ]


def test_under_json_the_mapping_is_a_message_before_the_rows(starts: dict[str, int]) -> None:
    _, out, _ = run_main(["--json", "audit", "vol1", "--path", "/etc/shadow"])
    mapping, *rows, summary = map(json.loads, out.splitlines())
    assert (mapping["message_type"], mapping["file_systems"][0]["type"]) == ("mapping", "ext4")
    assert [row["files"][-1]["file"] for row in rows] == ["/etc/shadow"] * 2
    assert summary["rows"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--path", "/etc", "--blocks", "1"], "two ways"),
        (["--files", "--format", "arrow"], "no column of files"),
        (["--primary", "x"], "Add --files"),
        (["--files", "--site", "there"], "no secondary at site there"),
        (["--files", "--primary", "/nowhere/image"], "can't be opened"),
    ],
)
def test_what_cant_be_asked_is_refused(
    arguments: list[str], said: str, starts: dict[str, int]
) -> None:
    code, _, err = run_main(["audit", "vol1", *arguments])
    assert code in (1, 2)
    assert said in err


def test_the_commands_of_the_page_run(starts: dict[str, int], image: Path) -> None:
    """The page's own volume and paths are those of this file."""
    text = PAGE.read_text("utf-8")
    commands = [
        line
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
        for line in map(str.strip, block.splitlines())
        if line.startswith("mirrorlog audit")
    ]
    assert len(commands) >= 3
    for line in commands:
        words = [str(image) if "snapshot" in word else word for word in shlex.split(line)[1:]]
        code, _, err = run_main(words)
        assert code == 0, (line, err)
