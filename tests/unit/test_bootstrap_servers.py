"""Which Kafka servers are used: what is named wins, then the folder's broker, then the default."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from mirrorlog.bootstrap_servers import DEFAULT_SERVERS
from mirrorlog.broker_record import RECORD_VERSION
from mirrorlog.cli.support.context import settings_from
from mirrorlog.settings import Settings, load_settings


def record_broker(state_dir: Path, *, runs: bool) -> None:
    """Record a broker at port 21000. It "runs" if its process is this one."""
    this = psutil.Process()
    started_s = this.create_time() - (0 if runs else 60)
    record = {"port": 21000, "controller_port": 21001, "pid": this.pid, "created_s": started_s}
    (state_dir / "broker").mkdir(parents=True)
    text = json.dumps({"version": RECORD_VERSION, **record})
    (state_dir / "broker" / "broker.json").write_text(text)


@pytest.fixture(autouse=True)
def nothing_is_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MIRRORLOG_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("MIRRORLOG_STATE_DIR", str(tmp_path))


def test_the_broker_of_the_state_folder_is_found(tmp_path: Path) -> None:
    record_broker(tmp_path, runs=True)
    settings = load_settings()
    assert settings.bootstrap_servers == "127.0.0.1:21000"
    assert settings.servers.chosen_by() == f"the embedded broker of {tmp_path}/broker"
    assert settings.kafka_client()["bootstrap.servers"] == "127.0.0.1:21000"


def test_a_recorded_broker_that_does_not_run_is_named_with_how_to_start_it(tmp_path: Path) -> None:
    record_broker(tmp_path, runs=False)
    servers = load_settings().servers
    assert servers.addresses == "127.0.0.1:21000"
    assert "which doesn't run" in servers.chosen_by()
    assert "`mirrorlog broker start`" in servers.next_step()
    assert DEFAULT_SERVERS in servers.next_step()


def test_without_a_broker_the_default_is_used(tmp_path: Path) -> None:
    servers = load_settings().servers
    assert servers.addresses == DEFAULT_SERVERS
    assert f"{tmp_path}/broker has no embedded broker" in servers.chosen_by()


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "broker.json").write_text("{")
    assert "broker.json can't be read" in load_settings().servers.chosen_by()


@pytest.mark.parametrize("source", ["-X", "-F", "option", "file", "environment", "program"])
def test_what_is_named_wins_over_the_broker_of_the_folder(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_broker(tmp_path, runs=True)
    file, properties = tmp_path / "m.toml", tmp_path / "client.properties"
    properties.write_text("bootstrap.servers=kafka:1\n")
    file.write_text('bootstrap_servers = "kafka:1"\n')
    if source == "environment":
        monkeypatch.setenv("MIRRORLOG_BOOTSTRAP_SERVERS", "kafka:1")
    settings: Settings = {
        "-X": lambda: settings_from(None, None, ["bootstrap.servers=kafka:1"], None, None),
        "-F": lambda: settings_from(None, properties, [], None, None),
        "option": lambda: settings_from(None, None, [], "kafka:1", None),
        "file": lambda: settings_from(file, None, [], None, None),
        "environment": lambda: settings_from(None, None, [], None, None),
        "program": lambda: load_settings(overrides={"bootstrap_servers": "kafka:1"}),
    }[source]()
    named_by = {
        "-X": "bootstrap.servers in -X",
        "-F": f"bootstrap.servers in {properties}",
        "option": "--bootstrap-servers",
        "file": f"bootstrap_servers in {file}",
        "environment": "MIRRORLOG_BOOTSTRAP_SERVERS",
        "program": "the program",
    }[source]
    assert settings.bootstrap_servers == "kafka:1"
    assert settings.kafka_client()["bootstrap.servers"] == "kafka:1"
    assert settings.servers.chosen_by() == f"named by {named_by}"
    assert "runs at 127.0.0.1:21000" in settings.servers.next_step()


def test_the_option_wins_over_client_settings() -> None:
    settings = settings_from(None, None, ["bootstrap.servers=b:1"], "a:1", None)
    assert settings.kafka_client()["bootstrap.servers"] == "a:1"


def test_settings_that_are_changed_by_a_program_name_no_wrong_source() -> None:
    changed = load_settings().model_copy(update={"bootstrap_servers": "kafka:1"})
    assert changed.servers.chosen_by() == "named by the program"
