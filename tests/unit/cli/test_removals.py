"""What is said to be lost with a site, before it is removed."""

from __future__ import annotations

from dataclasses import replace

from reports import PROGRESS

from mirrorlog.cli.support.removals import removal_cost, removal_fields
from mirrorlog.domain.site_progress import SiteState

CONSISTENT = replace(PROGRESS, state=SiteState.CONSISTENT, consistent_position=9)
SYNCING = replace(PROGRESS, state=SiteState.SYNCING, consistent_position=None)


def test_the_secondaries_and_what_comes_back_with_the_site_are_named() -> None:
    cost = removal_cost("s", {"a": CONSISTENT, "b": SYNCING, "c": None})
    assert "Its reports on 3 volumes are deleted: a, b, c." in cost
    assert "1 of its secondaries were consistent" in cost
    assert "copies all that is allocated" in cost


def test_of_many_volumes_some_are_named() -> None:
    reports = {f"v{number}": CONSISTENT for number in range(10)}
    assert "v0, v1, v2, v3, v4, v5, v6, v7 and 2 more." in removal_cost("s", reports)
    assert "v7 and" not in removal_cost("s", dict(list(reports.items())[:8]))


def test_a_site_without_a_secondary_gives_up_its_name_only() -> None:
    assert removal_cost("s", {}) == "Site s has no secondary. Its name is given up."


def test_a_report_that_cannot_be_read_says_nothing_of_its_volume() -> None:
    (known, unknown) = removal_fields("s", {"a": CONSISTENT, "c": None})["volumes"]
    assert (known["state"], known["consistent_position"]) == ("CONSISTENT", 9)
    assert set(unknown.values()) == {"c", None}
