"""The settings: unknown names and wrong values are errors that say what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorlog.errors import BadUse
from mirrorlog.setting_errors import VARIABLES_OF_TESTS, Origin
from mirrorlog.settings import (
    Settings,
    examine_settings,
    load_settings,
    load_with_origins,
    setting_form,
)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MIRRORLOG_PARTITONS", "MIRRORLOG_PARTITIONS"),
        ("MIRRORLOG_BOOTSTRAP_SERVER", "MIRRORLOG_BOOTSTRAP_SERVERS"),
        ("mirrorlog_state_di", "MIRRORLOG_STATE_DIR"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "3")
    with pytest.raises(BadUse) as raised:
        load_settings()
    assert raised.value.what.startswith(name)
    assert f"Did you mean {nearest}?" in raised.value.next
    assert raised.value.exit_code == 2


def test_a_variable_that_is_like_nothing_has_no_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRRORLOG_XYZ", "3")
    with pytest.raises(BadUse, match="MIRRORLOG_XYZ") as raised:
        load_settings()
    assert "Did you mean" not in raised.value.next


def test_variables_of_the_tests_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES_OF_TESTS:
        monkeypatch.setenv(name, "1")
    load_settings()


@pytest.mark.parametrize(
    ("setting", "value", "accepted"),
    [
        ("partitions", "0", "a whole number from 1 to 10000"),
        ("partitions", "many", "a whole number from 1 to 10000"),
        ("kafka", "acks=all", "JSON"),
        ("node_tiers_s", "60", "JSON"),
        ("node_tiers_s", "[3, 2]", "each tier must be longer"),
        ("node_keep_s", '{"year": 1}', "there is no tier year"),
        ("host_confirm", "maybe", "published, recorded"),
        ("host_linger_s", "0", "a number above 0"),
        ("node_keep_past_sites_after_s", "-1", "a number from 0"),
        ("node_name", "-x", "letters, digits"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_accepted(
    setting: str, value: str, accepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MIRRORLOG_{setting.upper()}", value)
    with pytest.raises(BadUse) as raised:
        load_settings()
    text = str(raised.value)
    assert text.startswith(f"MIRRORLOG_{setting.upper()} is")  # or isn't: secrets are not shown
    assert accepted in text
    assert "pydantic" not in text


def test_a_wrong_value_of_the_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text("partitions = 0\n")
    with pytest.raises(BadUse, match="partitions is 0") as raised:
        load_settings(file)
    assert raised.value.where == f"{file}:1"


def test_all_that_is_wrong_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text("partitons = 3\nhost_linger_s = 0\n")
    monkeypatch.setenv("MIRRORLOG_PARTITIONS", "0")
    monkeypatch.setenv("MIRRORLOG_STATEDIR", "x")
    loaded, problems = examine_settings(file)
    assert loaded is None
    assert {problem.what.split()[0] for problem in problems} == {
        "MIRRORLOG_STATEDIR",
        "'partitons'",
        "host_linger_s",
        "MIRRORLOG_PARTITIONS",
    }
    with pytest.raises(BadUse, match="3 more: `mirrorlog config check`"):
        load_settings(file)


def test_a_wrong_secret_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text("node_http_token = 987654\n")
    with pytest.raises(BadUse, match="node_http_token") as raised:
        load_settings(file)
    assert "987654" not in str(raised.value)


def test_each_setting_knows_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text('partitions = 7\ntopic_prefix = "file."\nstate_dir = "/file"\n')
    monkeypatch.setenv("MIRRORLOG_TOPIC_PREFIX", "environment.")
    monkeypatch.setenv("MIRRORLOG_STATE_DIR", "/environment")
    loaded = load_with_origins(file, {"state_dir": Path("/option")})
    settings, origins = loaded.settings, loaded.origins
    assert (settings.partitions, origins["partitions"]) == (7, Origin.FILE)
    assert (settings.topic_prefix, origins["topic_prefix"]) == (
        "environment.",
        Origin.ENVIRONMENT,
    )
    assert (settings.state_dir, origins["state_dir"]) == (Path("/option"), Origin.OPTION)
    assert origins["hot_regions"] is Origin.DEFAULT


@pytest.mark.parametrize("name", Settings.model_fields)
def test_what_a_setting_accepts_is_in_words(name: str) -> None:
    assert setting_form(name).accepts


def test_a_secret_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    settings = load_settings(None, {"node_http_token_file": str(secret)})
    assert settings.node_http_token == "s3cret"
    # A child process gets the secret itself, in its environment.
    environment = settings.as_environment()
    assert "MIRRORLOG_NODE_HTTP_TOKEN_FILE" not in environment
    assert environment["MIRRORLOG_NODE_HTTP_TOKEN"] == "s3cret"
    monkeypatch.setenv("MIRRORLOG_NODE_HTTP_TOKEN", "other")
    with pytest.raises(BadUse, match="is set, too"):
        load_settings(None, {"node_http_token_file": str(secret)})
    monkeypatch.delenv("MIRRORLOG_NODE_HTTP_TOKEN")
    for content, problem in {
        b"": "must hold",
        b"\xff": "isn't text",
        b"x" * 70_000: "hold",
    }.items():
        secret.write_bytes(content)
        with pytest.raises(BadUse, match=problem):
            load_settings(None, {"node_http_token_file": str(secret)})
    with pytest.raises(BadUse, match="No such file"):
        load_settings(None, {"metrics_token_file": str(tmp_path / "missing")})
