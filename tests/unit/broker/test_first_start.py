"""Startup caches of several releases in one cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from mirrorlog.broker.first_start import remove_outdated


def test_two_releases_that_take_turns_keep_their_startup_caches(tmp_path: Path) -> None:
    for at_s, name in enumerate(["oldest", "older", "newest"]):
        cache = tmp_path / f"startup-{name}.aot"
        cache.touch()
        os.utime(cache, (at_s, at_s))
    (tmp_path / "class-path.json").touch()
    remove_outdated(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "startup-older.aot",
        "startup-newest.aot",
        "class-path.json",
    }
