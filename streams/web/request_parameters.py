"""The questions that requests ask, out of their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from multidict import MultiMapping

from mirrorlog.adapters.http.request_parameters import page_limit, single_values
from mirrorlog.changed.formats import FORMATS, JSON_FORMATS, check_format
from mirrorlog.changed.points import Point, parse_point
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s, parse_size

MAX_PAGE_ENTRIES: Final = 10_000
"""The most entries that a page may have."""
_CHANGED: Final = ("since", "until", "format", "offset", "limit", "wait")
_VOLUMES: Final = ("after", "limit")


@dataclass(frozen=True, slots=True)
class ChangedQuery:
    """The question of a request about one volume.

    offset: the byte of the volume that the listing begins with.
    limit:  entries on a page; 0 streams the whole listing.
    wait_s: how long to wait for the log to be complete through `until`.
    """

    since: Point
    until: Point
    format: str
    offset: int
    limit: int
    wait_s: float


def parse_changed_query(query: MultiMapping[str], now_us: int, max_wait_s: float) -> ChangedQuery:
    """Return the parameters of `changed`. BadUse names the one that is wrong.

    now_us: microseconds since 1970, from which "2h ago" counts.
    """
    given = single_values(query, _CHANGED)
    name = given.get("format", "json")
    check_format(name, FORMATS)
    default = MAX_PAGE_ENTRIES if name in JSON_FORMATS else 0
    limit = page_limit(given, default, least=0, most=MAX_PAGE_ENTRIES)
    if limit and name not in JSON_FORMATS:
        raise BadUse(
            f"format '{name}' doesn't come in pages",
            next=f"Leave limit out; {', '.join(JSON_FORMATS)} do.",
        )
    return ChangedQuery(
        since=parse_point(given.get("since", "origin"), now_us),
        until=parse_point(given.get("until", "now"), now_us),
        format=name,
        offset=parse_size(given.get("offset", "0")),
        limit=limit,
        wait_s=min(parse_duration_s(given["wait"]), max_wait_s) if "wait" in given else max_wait_s,
    )


def parse_volumes_query(query: MultiMapping[str]) -> tuple[str, int]:
    """Return (the name after which the page begins, the most volumes on it)."""
    given = single_values(query, _VOLUMES)
    limit = page_limit(given, MAX_PAGE_ENTRIES, least=0, most=MAX_PAGE_ENTRIES)
    if not limit:
        raise BadUse("limit can't be 0", next=f"Write 1 to {MAX_PAGE_ENTRIES}.")
    return given.get("after", ""), limit
