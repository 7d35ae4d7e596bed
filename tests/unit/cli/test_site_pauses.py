"""`mirrorlog site pause` and `resume`: what they say, and what they leave in the site's folder."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import run_main

from mirrorlog.consumers.state.pauses import PauseFile, Pauses


def run_json(*arguments: str) -> dict[str, object]:
    code, out, err = run_main(["--json", "site", *arguments])
    assert code == 0, err
    answer: dict[str, object] = json.loads(out)
    return answer


def test_secondaries_are_paused_and_resumed(tmp_path: Path) -> None:
    folder = ("--dir", str(tmp_path))
    assert run_json("pause", "v", *folder)["volumes"] == ["v"]
    assert run_json("pause", "w", *folder)["volumes"] == ["v", "w"]
    assert run_json("resume", "v", *folder)["volumes"] == ["w"]
    assert PauseFile(tmp_path).load() == Pauses(volumes=frozenset({"w"}))
    assert run_json("pause", "--all", *folder)["all"] is True
    assert run_json("resume", "--all", *folder) == {
        "schema_version": 1,
        "all": False,
        "volumes": [],
    }


def test_exactly_one_of_a_volume_and_all_is_needed(tmp_path: Path) -> None:
    for words in (["pause"], ["pause", "v", "--all"], ["resume"]):
        code, _, err = run_main(["site", *words, "--dir", str(tmp_path)])
        assert code == 2
        assert "--all" in err
    assert list(tmp_path.iterdir()) == []


def test_a_site_does_not_start_with_a_rate_that_is_none(tmp_path: Path) -> None:
    code, _, err = run_main(["site", "run", "a", "--dir", str(tmp_path), "--max-rate", "fast"])
    assert code == 2
    assert "fast" in err
