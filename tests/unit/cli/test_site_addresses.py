"""`site run --primary VOLUME=URI` and `--secondary`: addresses that hold at one site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from notation import volume

from mirrorlog.cli.support import site_addresses
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.site_addresses import with_addresses
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.errors import BadUse
from mirrorlog.settings import Settings


def addresses(
    monkeypatch: pytest.MonkeyPatch, primaries: list[str], secondaries: list[str]
) -> Settings:
    def replace(call: Any, *, settings: Settings) -> Any:
        return SimpleNamespace(settings=settings)

    monkeypatch.setattr(site_addresses, "replace", replace)
    settings = Settings(site_primaries={"v": "/old", "w": "/w"})
    call = cast("Invocation", SimpleNamespace(settings=settings))
    return with_addresses(call, "a", Path("/f"), primaries, secondaries).settings


def test_options_add_to_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    secondaries = ["v=nbd+unix:///?socket=/s", "*={volume}.img"]
    settings = addresses(monkeypatch, ["v=nbds://h/v?tls-psk-file=/k"], secondaries)
    assert settings.site_primaries == {"v": "nbds://h/v?tls-psk-file=/k", "w": "/w"}
    assert settings.site_secondaries == {
        "v": "nbd+unix:///?socket=/s",
        "*": f"file://{tmp_path}/{{volume}}.img",
    }


@pytest.mark.parametrize("option", ["v", "v=", "=nbd://h", "v=nbd://", "v=x://y", "a/b=/c"])
def test_wrong_options_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    with pytest.raises(BadUse):
        addresses(monkeypatch, [option], [])


def test_after_a_promotion_an_export_counts_only_if_it_says_whose_copy_it_is() -> None:
    """An NBD export has no mark: the former primary may still be exported there."""
    before = volume(primary="file:///a/v.img")
    promoted = replace(before, primary="file:///b/v.img", primary_site="b")
    known = SiteAddresses("c", Path("/f"), {"v": "nbd://a/v", "*@b": "nbd://b/{volume}"})
    assert known.primary(before) == "nbd://a/v"
    assert known.primary(promoted) == "nbd://b/v"
    stale = SiteAddresses("c", Path("/f"), {"v": "nbd://a/v"})
    with pytest.raises(BadUse, match="nothing tells whether nbd://a/v is that copy"):
        stale.primary(promoted)
    assert stale.primary(replace(promoted, primary="nbd://b/v")) == "nbd://b/v"
    # A file has a mark, by which the site knows it.
    assert SiteAddresses("c", Path("/f"), {"v": "/x"}).primary(promoted) == "/x"
    assert SiteAddresses("c", Path("/f")).primary(promoted) == "file:///b/v.img"
    for wrong in ({"v@b/c": "/x"}, {"v@": "/x"}):
        with pytest.raises(BadUse):
            SiteAddresses("c", Path("/f"), wrong)
    with pytest.raises(BadUse):
        SiteAddresses("c", Path("/f"), {}, {"v@b": "/x"})
