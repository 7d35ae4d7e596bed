"""What `mirrorlog site serve` refuses to serve, before it waits for anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from notation import volume

from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.drill_sources import secondary_address
from mirrorlog.cli.support.output import Output
from mirrorlog.domain.volumes import Volume, VolumeState
from mirrorlog.errors import BadUse
from mirrorlog.settings import load_settings

CALL = Invocation(load_settings(None, {}), Output(), verbose=False)


def address(described: Volume, folder: Path) -> str:
    return secondary_address(CALL, described, "a", folder)


def test_a_secondary_that_is_there_is_served(tmp_path: Path) -> None:
    (tmp_path / "v.img").touch()
    assert address(volume("v"), tmp_path) == (tmp_path / "v.img").as_uri()
    exported = replace(volume("v"), secondaries={"a": "nbd://h/v"})
    assert address(exported, tmp_path) == "nbd://h/v"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "there is no secondary"),
        ({"state": VolumeState.RETIRED}, "there is no secondary"),
    ],
)
def test_what_is_no_secondary_is_refused(
    change: dict[str, object], why: str, tmp_path: Path
) -> None:
    with pytest.raises(BadUse, match=why):
        address(replace(volume("v"), **change), tmp_path)  # type: ignore[arg-type]
