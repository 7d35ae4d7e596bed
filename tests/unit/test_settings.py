"""Settings: which source overrules which, and errors that name the wrong setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorlog.errors import BadUse
from mirrorlog.settings import load_settings


def test_a_later_source_overrules_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text('partitions = 2\nhost_linger_s = 2.0\nnode_name = "file"\n')
    monkeypatch.setenv("MIRRORLOG_HOST_LINGER_S", "3")
    monkeypatch.setenv("MIRRORLOG_NODE_NAME", "environment")
    settings = load_settings(file, {"node_name": "option"})
    assert settings.partitions == 2
    assert settings.host_linger_s == 3.0
    assert settings.node_name == "option"
    assert settings.hot_regions == 1024


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("partitions = 0", "'partitions'"),
        ("no_such_setting = 1", "'no_such_setting'"),
        ("node_tiers_s = [60, 60]", "'node_tiers_s'"),
        ("node_keep_s = {week = 1}", "'node_keep_s'"),
    ],
)
def test_an_error_names_the_setting(text: str, setting: str, tmp_path: Path) -> None:
    file = tmp_path / "mirrorlog.toml"
    file.write_text(text)
    with pytest.raises(BadUse) as caught:
        load_settings(file)
    assert setting in caught.value.what
    assert caught.value.next


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mirrorlog.toml"
    for content in (None, b"partitions =", b"\xff"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(BadUse) as caught:
            load_settings(file)
        assert caught.value.where == str(file)
        assert caught.value.next
