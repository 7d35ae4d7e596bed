"""Which point `--at` names: its name, the newest, or the newest that isn't after a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plain_images import catalog_with

from mirrorlog.cli.support.point_at import chosen_point
from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.errors import BadUse, OutOfRetention

HOUR_US = 3_600_000_000
NOW_US = 1_800_000_000_000_000


def catalog_of(*times: tuple[int | None, int]) -> VolumeCatalog:
    """Return a catalog with points as of these hours before now, and when they were written."""
    return catalog_with(
        {
            "at_us": None if at is None else NOW_US - at * HOUR_US,
            "written_at_us": NOW_US - written * HOUR_US,
        }
        for at, written in times
    )


def place(catalog: VolumeCatalog, text: str) -> int:
    record = chosen_point(catalog, text, now_us=NOW_US)
    return list(catalog.records).index(record.point)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("newest", 2),
        ("1h ago", 2),
        ("2h ago", 2),
        ("2.5h ago", 1),
        ("5h", 1),
        ("5.1h ago", 0),
        ("9h ago", 0),
    ],
)
def test_a_time_takes_the_newest_point_that_isnt_after_it(text: str, wanted: int) -> None:
    assert place(catalog_of((9, 8), (None, 5), (2, 1)), text) == wanted


def test_a_name_takes_its_point_also_with_spaces_around() -> None:
    catalog = catalog_of((3, 3), (2, 2))
    first, second = catalog.records
    assert (place(catalog, first), place(catalog, f" {second} ")) == (0, 1)
    with pytest.raises(BadUse, match="no point"):
        place(catalog, "20200101T000000Z-00000000")


def test_what_no_point_covers_is_said() -> None:
    catalog = catalog_of((3, 3))
    with pytest.raises(OutOfRetention, match="no point as old as") as refused:
        place(catalog, "4h ago")
    assert "its oldest point is of" in refused.value.where
    for text in ("@1234", "site:berlin", "now", "origin", "nonsense"):
        with pytest.raises(BadUse):
            place(catalog, text)
    for text in ("newest", "1h ago"):
        with pytest.raises((BadUse, OutOfRetention), match="no point"):
            place(replace(catalog, records={}), text)
