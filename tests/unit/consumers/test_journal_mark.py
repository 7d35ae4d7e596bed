"""A disk of journals that isn't mounted is an error, and no new folder on another disk."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from mirrorlog.consumers.journal.journal_mark import KNOWN_NAME, MARK_NAME, known_journal_folder
from mirrorlog.consumers.site_journals import open_journals
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings


def open_at(journals: Path, site: Path, consistency: str = "crash") -> list[str]:
    settings = Settings(site_journal_dir=journals, site_consistency=consistency)
    with ExitStack() as stack:
        return open_journals(site, settings, stack).volumes()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of journals, with a journal in it, and the site's folder. The site has run."""
    journals, site = tmp_path / "fast" / "journals", tmp_path / "site"
    assert open_at(journals, site) == []
    (journals / "v.journal").write_bytes(b"sealed")
    assert open_at(journals, site) == ["v"]
    return journals, site


@pytest.mark.parametrize("consistency", ["crash", "eventual"])
@pytest.mark.parametrize("is_left", [True, False], ids=["a mount point", "nothing"])
def test_a_folder_that_lost_its_mark_is_refused_and_nothing_is_made_there(
    folders: tuple[Path, Path], consistency: str, is_left: bool
) -> None:
    journals, site = folders
    away = journals.rename(journals.with_name("unmounted"))
    if is_left:
        journals.mkdir()
    with pytest.raises(BadUse, match="lost its mark") as refused:
        open_at(journals, site, consistency)
    assert KNOWN_NAME in refused.value.next
    assert not (journals.exists() and list(journals.iterdir()))
    if is_left:
        journals.rmdir()
    away.rename(journals)
    assert open_at(journals, site, consistency) == ["v"]


def test_another_folder_at_the_place_is_refused(folders: tuple[Path, Path]) -> None:
    journals, site = folders
    shutil.rmtree(journals)
    open_at(journals, site.with_name("other"))
    with pytest.raises(BadUse, match="is another one"):
        open_at(journals, site)


def test_lost_journals_are_given_up_by_removing_what_the_site_knows(
    folders: tuple[Path, Path],
) -> None:
    journals, site = folders
    shutil.rmtree(journals)
    (site / KNOWN_NAME).unlink()
    assert open_at(journals, site) == []


def test_a_folder_at_another_path_is_a_choice(folders: tuple[Path, Path]) -> None:
    journals, site = folders
    other = journals.with_name("other")
    assert open_at(other, site) == []
    assert (other / MARK_NAME).exists()
    assert known_journal_folder(site) == other


def test_a_sites_folder_that_was_lost_takes_the_journals_as_they_are(
    folders: tuple[Path, Path],
) -> None:
    journals, site = folders
    shutil.rmtree(site)
    site.mkdir()
    assert open_at(journals, site) == ["v"]


def test_the_folder_inside_of_the_sites_has_no_mark(tmp_path: Path) -> None:
    with ExitStack() as stack:
        open_journals(tmp_path, Settings(site_consistency="crash"), stack)
    assert not (tmp_path / KNOWN_NAME).exists()
