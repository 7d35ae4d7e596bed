"""`config` shows where each setting comes from, hides secrets, and finds all that is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main

from mirrorlog.cli.support.settings_view import HIDDEN
from mirrorlog.domain.host_keys import HostKey
from mirrorlog.settings import SECRETS_BY_FILE, Settings

ON_A_MACHINE = {"state_dir", "cache_dir", "node_name"}
"""Settings whose defaults differ from machine to machine."""


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of settings, of which the environment and options overrule some."""
    file = tmp_path / "mirrorlog.toml"
    file.write_text(
        'partitions = 7\ntopic_prefix = "file."\nnode_http_token = "s3cret"\n'
        '[kafka]\n"sasl.password" = "s3cret"\nacks = "1"\n'
    )
    monkeypatch.setenv("MIRRORLOG_TOPIC_PREFIX", "environment.")
    return file


def shown(arguments: list[str]) -> dict[str, Any]:
    code, out, err = run_main(["config", "show", "--json", *arguments])
    assert code == 0, err
    assert "s3cret" not in out + err
    fields = json.loads(out)
    assert fields["schema_version"] == 1
    return {setting["name"]: setting for setting in fields["settings"]}


def test_each_setting_is_shown_with_its_origin_and_no_secret(config_file: Path) -> None:
    properties = config_file.with_name("client.properties")
    properties.write_text("ssl.key.password=s3cret\n")
    settings = shown(
        ["-c", str(config_file), "-F", str(properties), "-X", "acks=all", "--state-dir", "/s"]
    )
    known = {name: (setting["value"], setting["from"]) for name, setting in settings.items()}
    assert known["partitions"] == (7, "file")
    assert known["topic_prefix"] == ("environment.", "environment")
    assert known["state_dir"] == ("/s", "option")
    assert known["kafka.acks"] == ("all", "option")
    assert known["kafka.sasl.password"] == (None, "file")
    assert known["kafka.ssl.key.password"] == (None, "option")
    assert known["node_http_token"] == (None, "file")
    assert known["hot_regions"] == (1024, "default")
    assert {name for name in settings if "." not in name} == set(Settings.model_fields) - {"kafka"}
    assert [name for name, setting in settings.items() if setting["is_hidden"]] == [
        "kafka.sasl.password",
        "kafka.ssl.key.password",
        "node_http_token",
    ]


def test_people_see_a_table_without_secrets(config_file: Path) -> None:
    code, out, _ = run_main(["config", "show", "-c", str(config_file)])
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert code == 0
    assert rows["partitions"] == ["7", "file"]
    assert rows["node_http_token"] == [HIDDEN, "file"]
    assert "s3cret" not in out


def test_servers_of_a_client_option_are_an_option() -> None:
    servers = shown(["-X", "bootstrap.servers=h:1"])["bootstrap_servers"]
    assert (servers["value"], servers["from"]) == ("h:1", "option")


def test_the_embedded_broker_of_the_state_folder_is_an_origin(tmp_path: Path) -> None:
    nothing = shown(["--state-dir", str(tmp_path)])["bootstrap_servers"]
    assert nothing["from"] == "default"
    (tmp_path / "broker").mkdir()
    record = '{"version": 1, "port": 1234, "controller_port": 1235}'
    (tmp_path / "broker" / "broker.json").write_text(record)
    servers = shown(["--state-dir", str(tmp_path)])["bootstrap_servers"]
    assert (servers["value"], servers["from"]) == ("127.0.0.1:1234", "embedded broker")
    named = shown(["--state-dir", str(tmp_path), "--bootstrap-servers", "h:1"])
    assert named["bootstrap_servers"]["from"] == "option"


def test_settings_are_shown_beside_an_unknown_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRRORLOG_PARTITONS", "3")
    code, out, err = run_main(["config", "show"])
    assert code == 2
    assert "hot_regions" in out
    assert "Did you mean MIRRORLOG_PARTITIONS?" in err


def test_check_finds_all_that_is_wrong(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(["config", "check", "-c", str(config_file)])[0] == 0
    monkeypatch.setenv("MIRRORLOG_PARTITONS", "3")
    monkeypatch.setenv("MIRRORLOG_HOT_REGIONS", "none")
    code, out, err = run_main(["config", "check", "--json"])
    answer, error = map(json.loads, out.splitlines())
    assert (code, answer["ok"], error["message_type"]) == (2, False, "error")
    assert len(answer["problems"]) == 2
    assert "MIRRORLOG_PARTITONS" in err
    assert "MIRRORLOG_HOT_REGIONS" in err


def test_check_asks_kafkas_client_for_the_names_of_its_settings() -> None:
    code, out, err = run_main(["config", "check", "-X", "no.such.thing=1", "--json"])
    assert code == 2
    assert json.loads(out.splitlines()[0])["ok"] is False
    assert "no.such.thing" in err


def test_the_example_has_each_setting_with_its_default_and_is_accepted(tmp_path: Path) -> None:
    code, text, _ = run_main(["config", "example"])
    assert code == 0
    _, as_json, _ = run_main(["config", "example", "--json"])
    assert json.loads(as_json)["toml"] == text
    assert max(map(len, text.splitlines())) <= 100
    assert tomllib.loads(text) == {}, "the file changes something as it is"
    file = tmp_path / "mirrorlog.toml"
    settings = re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)
    file.write_text(settings.replace("/etc/mirrorlog/", f"{tmp_path}/"))
    for name in SECRETS_BY_FILE:
        key = HostKey("east/1", bytes(32)).as_text()
        (tmp_path / name).write_text(key if name == "host_key_file" else "s3cret")
    given = tomllib.loads(file.read_text())
    assert set(given) == set(Settings.model_fields)
    assert run_main(["config", "check", "-c", str(file)])[0] == 0
    default = Settings()
    needs_a_value = {name for name in given if getattr(default, name) is None}
    same = set(given) - needs_a_value - ON_A_MACHINE
    loaded = Settings(**{name: given[name] for name in same})
    assert [name for name in same if getattr(loaded, name) != getattr(default, name)] == []
    meant = text.split("\n\n")
    for name in given:
        (entry,) = [
            part for part in meant if f"Variable: MIRRORLOG_{name.upper()}\n" in f"{part}\n"
        ]
        unit = {"s": "in seconds", "bytes": "in bytes"}.get(name.rsplit("_", 1)[-1], "")
        assert unit in " ".join(entry.replace("#", " ").split()), entry


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('# hot_regions = 1\ntopic_prefix = "x"\nhot_regions = 0\n', ":3"),
        ('"hot_regions" = "many"\n', ":1"),
        ("\nhot_region = 1\n", ":2"),
        ("\n[node_keep_s]\nweek = 3\n", ":2"),
        ("node_keep_s.week = 3\n", ":1"),
        ("hot_regions = \n", ""),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line(
    tmp_path: Path, text: str, where: str
) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text(text)
    code, out, _ = run_main(["config", "check", "-c", str(file), "--json"])
    (problem,) = json.loads(out.splitlines()[0])["problems"]
    assert (code, problem["where"]) == (2, f"{file}{where}")
    assert problem["next"]
    assert where or "line 1" in problem["what"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    code, script, _ = run_main(["completion", shell])
    assert code == 0
    assert f"_MIRRORLOG_COMPLETE=complete_{shell}" in script
    _, as_json, _ = run_main(["completion", shell, "--json"])
    assert json.loads(as_json)["script"] + "\n" == script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mirrorlog vol", "volume"),
        ("mirrorlog volume li", "list"),
        ("mirrorlog volume list --bootstr", "--bootstrap-servers"),
    ],
)
def test_a_shell_that_asks_is_answered(
    typed: str, offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MIRRORLOG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    code = "import sys; sys.argv = ['mirrorlog']; from mirrorlog.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == [offered]
