"""Each command has a man page, which says what its help says, and which groff accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import run_main
from command_tree import command_tree

from mirrorlog.cli.support.man_pages import _escaped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("share") / "man" / "man1"
    code, out, err = run_main(["man", str(path), "--json"])
    assert code == 0, err
    assert sorted(file.name for file in path.iterdir()) == json.loads(out)["pages"]
    return path


def test_each_command_has_a_page_with_its_help_and_all_its_options(folder: Path) -> None:
    main_page = (folder / "mirrorlog.1").read_text()
    tree = command_tree()
    names = {"-".join(("mirrorlog", *words)) for words in tree}
    assert {path.stem for path in folder.iterdir()} == {"mirrorlog", *names}
    for words, command in tree.items():
        text = (folder / f"{'-'.join(('mirrorlog', *words))}.1").read_text()
        assert _escaped(" ".join(command.help.replace("\f", "").split("\n\n")[0].split())) in text
        for param in command.params:
            for option in param.opts if param.param_type_name == "option" else ():
                assert f"\\fB{_escaped(option)}\\fR" in text + main_page, (words, option)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff isn't installed")
def test_groff_has_no_warning(folder: Path) -> None:
    files = sorted(map(str, folder.iterdir()))
    command = ["groff", "-man", "-ww", "-Tutf8", "-Kutf8", *files]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "mirrorlog-volume-create" in ended.stdout.replace("\b", "")


def test_values_have_names(folder: Path) -> None:
    text = (folder / "mirrorlog-host-serve.1").read_text()
    for names in (
        r"\fB\-\-port\fR \fINUMBER\fR",
        r"\fB\-\-socket\fR \fIPATH\fR",
        r"\fB\-\-through\fR \fIauto|filter|plugin\fR",
        r"\fB\-\-primary\fR \fIURI\fR",
    ):
        assert names in text


def test_lines_that_look_like_requests_are_text() -> None:
    assert _escaped(".x\n'y -z \\w") == "\\&.x\n\\&'y \\-z \\ew"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run_main(["man", str(tmp_path / "file" / "man1")])
    assert code == 2
    assert str(tmp_path / "file") in err
