"""The options of `mirrorlog site run` become settings, and those of a file stay without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run_main

from mirrorlog.cli.commands import site
from mirrorlog.settings import Settings


def settings_of(monkeypatch: pytest.MonkeyPatch, folder: Path, options: list[str]) -> Settings:
    """Return the settings that a site runs with, given these options."""
    ran: list[Settings] = []
    monkeypatch.setattr(
        site, "run_site_with", lambda _name, _folder, settings, *_more: ran.append(settings)
    )
    arguments = ["site", "run", "a", "--dir", str(folder), *options]
    code, _, err = run_main(["--bootstrap-servers", "localhost:1", *arguments])
    assert code == 0, err
    (settings,) = ran
    return settings


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (False, (), (), "max", "site")),
        (["--checksum"], (True, (), (), "max", "site")),
        (["--from-seed", "v*", "--from-seed", "w"], (False, ("v*", "w"), (), "max", "site")),
        (["--primary-reader", "host"], (False, (), (), "max", "host")),
        (["--volumes", "v", "--max-rate", "5MB/s"], (False, (), ("v",), "5MB/s", "site")),
    ],
)
def test_options_become_settings(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: list[str],
    expected: tuple[object, ...],
) -> None:
    settings = settings_of(monkeypatch, tmp_path, options)
    chosen = (
        settings.site_checksum,
        settings.site_seeds,
        settings.site_volumes,
        settings.site_max_rate,
        settings.site_primary_reader,
    )
    assert chosen == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("eventual", None, 1 << 30)),
        (["--consistency", "crash", "--journal-max", "4GiB"], ("crash", None, 4 << 30)),
        (["--journal", "/j"], ("eventual", Path("/j"), 1 << 30)),
    ],
)
def test_options_of_journals_become_settings(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: list[str],
    expected: tuple[object, ...],
) -> None:
    settings = settings_of(monkeypatch, tmp_path, options)
    assert (
        settings.site_consistency,
        settings.site_journal_dir,
        settings.site_journal_bytes,
    ) == expected


@pytest.mark.parametrize("options", [["--journal-max", "4KiB"], ["--consistency", "always"]])
def test_impossible_options_of_journals_are_refused(tmp_path: Path, options: list[str]) -> None:
    arguments = ["site", "run", "a", "--dir", str(tmp_path), *options]
    code, _, _ = run_main(["--bootstrap-servers", "localhost:1", *arguments])
    assert code == 2
