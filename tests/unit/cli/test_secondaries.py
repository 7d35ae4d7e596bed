"""A secondary gets a file of its own: not a primary, nor another volume's at the same site."""

from __future__ import annotations

from pathlib import Path

import pytest
from notation import volume

from mirrorlog.cli.support.secondaries import check_secondaries
from mirrorlog.domain.volumes import VolumeState
from mirrorlog.errors import BadUse

# The new volume's primary is p.img | its secondaries | another volume | the error
CASES = """
a=s.img         | -                       | -
a=p.img         | -                       | the primary of volume 'v'
a=link.img      | -                       | the primary of volume 'v'
a=x/../p.img    | -                       | the primary of volume 'v'
a=s.img b=p.img | -                       | the primary of volume 'v'
a=s.img         | q.img a=s.img           | the secondary of volume 'w' at a
a=s.img         | q.img b=s.img           | -
a=s.img         | s.img                   | the primary of volume 'w'
a=s.img         | s.img a=s.img retired   | -
a=s.img b=s.img | -                       | -
a/b=s.img       | -                       | can't name a site
a=nbd://h/e     | -                       | -
a=nbd://h/p     | nbds://h:10809/p        | the primary of volume 'w'
a=nbd://h/e     | q.img a=nbds://h/e      | the secondary of volume 'w' at a
a=nbd:///e      | -                       | names a host
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_check_secondaries(tmp_path: Path, case: str) -> None:
    new, other, expected = (part.strip() for part in case.split("|"))
    (tmp_path / "link.img").symlink_to("p.img")
    (tmp_path / "x").mkdir()

    def address(name: str) -> str:
        return name if name.startswith("nbd") else f"file://{tmp_path}/{name}"

    def sites(words: list[str]) -> dict[str, str]:
        return {site: address(name) for site, name in (word.split("=") for word in words)}

    others = []
    if other != "-":
        primary, *words = other.split()
        others.append(
            volume(
                "w",
                primary=address(primary),
                secondaries=sites([word for word in words if "=" in word]),
                state=VolumeState.RETIRED if "retired" in words else VolumeState.ACTIVE,
            )
        )
    arguments = ("v", address("p.img"), sites(new.split()), others)
    if expected == "-":
        check_secondaries(*arguments)
    else:
        with pytest.raises(BadUse, match=expected):
            check_secondaries(*arguments)
